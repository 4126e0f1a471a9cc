"""Moving digits (clips of 6 frames of 12 x 12 pixels, 5 grey levels): two handwritten digits that bounce and overlap.

igpt train moving_digits --workdir runs/moving_digits
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
