"""Fashion-MNIST (14 x 14 grey pixels, 16 levels), sized for an evening on two CPU cores.

    igpt train fashion_mnist --workdir runs/fashion_mnist
    igpt eval --model runs/fashion_mnist --network
    igpt probe --model runs/fashion_mnist --train-images 20000 --together 3

Expected after 96,000 images (an hour on 2 CPU cores with other work beside it), on all 10,000 test images: 0.772 ±
0.002 nats per token (seeds 0 to 2: 0.769, 0.770, 0.775); a network on 40 neighbours 0.812, counts of neighbours 1.007.
Probe of seed 0: 0.836, of three layers 0.848; raw pixels 0.830. docs/results/ has the tables.
Debian's package dataset-fashion-mnist puts the files where `source` looks; elsewhere give --data.source idx:PATH.
On one GPU (not run yet): --model.grid 28 28 --model.d-model 384 --model.n-layer 12 --model.n-head 6 --data.batch-size
256 --train.steps 20000.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` only shows that it works."""
    return Config(
        name="fashion_mnist",
        model=ModelConfig(
            grid=(14, 14), vocab_size=16, n_layer=1 if tiny else 4, n_head=2 if tiny else 4, d_model=16 if tiny else 128
        ),
        data=DataConfig(source="idx:/usr/share/datasets/fashion-mnist", batch_size=8 if tiny else 32, channels=1),
        palette=PaletteConfig(kind="levels"),
        optim=OptimConfig(lr=2e-3, warmup_steps=2 if tiny else 200, clip_norm=1.0, ema_decay=0.999),
        train=TrainConfig(
            steps=4 if tiny else 3000,
            log_every=2 if tiny else 50,
            eval_every=4 if tiny else 500,
            checkpoint_every=4 if tiny else 500,
            sample_every=0 if tiny else 500,
            eval_batch_size=16 if tiny else 100,
            eval_images=16 if tiny else 500,
        ),
    )
