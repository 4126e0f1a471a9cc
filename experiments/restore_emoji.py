"""Restoration of damaged colour pictures of any size, learnt on parts of emoji (16 x 16 pixels, 128 colours).

    npm install emoji-datasource-google
    igpt train restore_emoji --workdir runs/restore_emoji
    igpt restore emoji.png --model runs/restore_emoji --degrade gaussian:0.15 -n 8
    python experiments/benchmarks/restoration.py --model runs/restore_emoji

Skin tones of one emoji are all on one side of the split. Expected after 96,000 parts (an hour on 2 CPU cores with other
work beside it; seed 0): 0.616 ± 0.031 nats per token on 128 held-out parts; counts of neighbours, which do not see the
damaged picture, give 0.832 ± 0.051. PSNR of the mean of 8 draws: noise 25.4 dB (damaged 17.7, best classical method
23.6), lost resolution 25.1 (26.2, 28.6), JPEG 23.4 (23.2, 23.7); over all four kinds, lost colour among them, 21.0,
below the damaged picture's 21.7. So use it for noise (docs/results/restoration.md).

For an accelerator, not run yet: --model.vocab-size 512 --model.n-layer 8 --model.n-head 8 --model.d-model 512
--data.batch-size 128 --optim.lr 1e-3 --train.steps 20000, and --data.source folder:PATH for photographs.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` only shows that it works."""
    return Config(
        name="restore_emoji",
        objective="restore",
        model=ModelConfig(
            grid=(16, 16),
            vocab_size=16 if tiny else 128,
            n_layer=1 if tiny else 3,
            n_head=2,
            d_model=16 if tiny else 96,
            prefix_slots=64,
            prefix_values=12,
            aligned_values=147,
        ),
        data=DataConfig(
            source="folder:node_modules/emoji-datasource-google/img/google/64",
            group="-(1f3f[b-f]|fe0f)",
            batch_size=8 if tiny else 16,
            channels=3,
            flip=True,
            augment="crop",
            degrade=("gaussian:0.15", "downsample:2", "jpeg:10", "grey"),
        ),
        palette=PaletteConfig(kind="kmeans", fit_images=50 if tiny else 2000),
        optim=OptimConfig(lr=3e-3, warmup_steps=2 if tiny else 100, clip_norm=1.0, ema_decay=0.99),
        train=TrainConfig(
            steps=4 if tiny else 6000,
            log_every=2 if tiny else 50,
            eval_every=4 if tiny else 1000,
            checkpoint_every=4 if tiny else 250,
            sample_every=0,
            eval_batch_size=16 if tiny else 64,
            eval_images=16 if tiny else 128,
        ),
    )
