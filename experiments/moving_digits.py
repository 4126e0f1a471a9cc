"""Moving digits (clips of 6 frames of 12 x 12 pixels, 5 grey levels): two handwritten digits that bounce and overlap.

    igpt train moving_digits --workdir runs/moving_digits
    python experiments/benchmarks/video.py --model runs/moving_digits --out video.json

Expected after 8,800 clips (37 minutes on 2 CPU cores with much other work beside it; seed 0, all 500 held-out clips):
0.488 ± 0.006 nats per token. That is worse than counts that look for motion, 0.305 ± 0.004. Longer training beats them:

    igpt train moving_digits --workdir runs/longer --init-from runs/moving_digits --optim.lr 2e-3 \\
        --optim.warmup-steps 100 --optim.ema-decay 0.995 --train.steps 5000

0.237 ± 0.003 nats per token (85 minutes); the mean of 8 draws of the fourth frame has 15.3 ± 0.3 dB, constant velocity
12.0 ± 0.3, a copy 10.9. docs/results/video.md has all tables.

For one GPU (not measured): --data.source moving_digits:16x16 --model.grid 8 16 16 --model.n-layer 8 --model.d-model 256
--data.batch-size 64 --optim.lr 1e-3 --train.steps 20000, and --radius 2 for the benchmark.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` only shows that it works."""
    return Config(
        name="moving_digits",
        model=ModelConfig(
            grid=(3, 9, 9) if tiny else (6, 12, 12),
            vocab_size=5,
            n_layer=1 if tiny else 4,
            n_head=2 if tiny else 4,
            d_model=16 if tiny else 96,
        ),
        data=DataConfig(source="moving_digits:9x9" if tiny else "moving_digits:12x12", batch_size=8, channels=1),
        palette=PaletteConfig(kind="levels"),
        optim=OptimConfig(lr=3e-3, warmup_steps=2 if tiny else 50, clip_norm=1.0, ema_decay=0.99),
        train=TrainConfig(
            steps=4 if tiny else 1100,
            log_every=2 if tiny else 10,
            eval_every=4 if tiny else 250,
            checkpoint_every=4 if tiny else 50,
            sample_every=0,
            eval_batch_size=8 if tiny else 20,
            eval_images=8 if tiny else 100,
        ),
    )
