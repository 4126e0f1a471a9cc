"""Fashion-MNIST (28 x 28 grey pixels, 16 levels), sized for an evening on two CPU cores.

    igpt train fashion_mnist --workdir runs/fashion_mnist

Expected: 0.785 nats per token on 1000 of the test images, which look like garments when sampled.
Debian's package dataset-fashion-mnist puts the files where `source` looks; elsewhere give --data.source idx:PATH.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` only shows that it works."""
    return Config(
        name="fashion_mnist",
        model=ModelConfig(
            grid=(28, 28), vocab_size=16, n_layer=1 if tiny else 4, n_head=2 if tiny else 4, d_model=16 if tiny else 96
        ),
        data=DataConfig(source="idx:/usr/share/datasets/fashion-mnist", batch_size=8 if tiny else 16, channels=1),
        palette=PaletteConfig(kind="levels"),
        optim=OptimConfig(lr=3e-3, warmup_steps=2 if tiny else 100, clip_norm=1.0, ema_decay=0.99),
        train=TrainConfig(
            steps=4 if tiny else 1000,
            log_every=2 if tiny else 10,
            eval_every=4 if tiny else 250,
            checkpoint_every=4 if tiny else 100,
            sample_every=0 if tiny else 500,
            eval_batch_size=16 if tiny else 40,
            eval_images=16 if tiny else 1000,
        ),
    )
