"""Colour emoji (16 x 16, a palette of 32 colours fitted to them), sized for half an hour on two CPU cores.

    npm install emoji-datasource-google
    igpt train emoji --workdir runs/emoji
    igpt eval --model runs/emoji/best --network --lossless

Expected after 80,000 images (about 50 a second on two CPU cores), of the weights with the best validation loss (step
2000): 0.620 nats per token on 210 held-out emoji, the mean of three seeds; a network on 40 neighbours has 0.735, counts
of neighbours 0.922, WebP 1.186. Faces, people, flags and animals can be named. The table is in
docs/results/likelihood.md.
Skin tones of one emoji are all trained on, or all held out. Any folder of pictures does: --data.source folder:PATH
--data.group "". An accelerator affords more: --model.grid 32 32 --model.vocab-size 512 --model.n-layer 12
--model.d-model 512 --data.batch-size 128 --train.steps 20000 (not run yet).
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` only shows that it works."""
    return Config(
        name="emoji",
        model=ModelConfig(
            grid=(8, 8) if tiny else (16, 16),
            vocab_size=32,
            n_layer=1 if tiny else 4,
            n_head=2 if tiny else 4,
            d_model=16 if tiny else 128,
        ),
        data=DataConfig(
            source="folder:node_modules/emoji-datasource-google/img/google/64",
            batch_size=8 if tiny else 32,
            channels=3,
            group="^.*/|-(1f3f[b-f]|fe0f)",
            validation=0.05,
            augment="shift",
            flip=True,
        ),
        palette=PaletteConfig(kind="kmeans", fit_images=50 if tiny else 2000),
        optim=OptimConfig(lr=2e-3, warmup_steps=2 if tiny else 200, clip_norm=1.0, ema_decay=0.995),
        train=TrainConfig(
            steps=4 if tiny else 2500,
            log_every=2 if tiny else 10,
            eval_every=4 if tiny else 250,
            checkpoint_every=4 if tiny else 250,
            sample_every=0 if tiny else 1250,
            eval_batch_size=16 if tiny else 50,
            eval_images=16 if tiny else None,
            best="loss",
        ),
    )
