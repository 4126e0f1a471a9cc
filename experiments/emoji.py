"""Colour emoji (32 x 32, a palette of 512 colours fitted to them), sized for an evening on two CPU cores.

    npm install emoji-datasource-google
    igpt train emoji --workdir runs/emoji

Expected: 1.777 nats per token on 198 held-out emoji after 5,120 images; colours and outlines, no faces yet. An
accelerator affords a larger model and more steps: --model.n-layer 12 --model.d-model 512 --train.steps 20000.
Any folder of pictures does: --data.source folder:PATH.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` only shows that it works."""
    return Config(
        name="emoji",
        model=ModelConfig(
            grid=(8, 8) if tiny else (32, 32),
            vocab_size=64 if tiny else 512,
            n_layer=1 if tiny else 4,
            n_head=2 if tiny else 4,
            d_model=16 if tiny else 128,
        ),
        data=DataConfig(
            source="folder:node_modules/emoji-datasource-google/img/google/64",
            batch_size=8 if tiny else 16,
            channels=3,
            flip=True,
        ),
        palette=PaletteConfig(kind="kmeans", fit_images=50 if tiny else 2000),
        optim=OptimConfig(lr=3e-3, warmup_steps=2 if tiny else 50, clip_norm=1.0, ema_decay=0.98),
        train=TrainConfig(
            steps=4 if tiny else 320,
            log_every=2 if tiny else 10,
            eval_every=4 if tiny else 80,
            checkpoint_every=4 if tiny else 80,
            sample_every=0 if tiny else 160,
            eval_batch_size=16,
            eval_images=16 if tiny else None,
        ),
    )
