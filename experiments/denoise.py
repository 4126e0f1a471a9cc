"""Restoration of damaged Fashion-MNIST (14 x 14 grey pixels, 16 levels), sized for an hour on two CPU cores.

    igpt train denoise --workdir runs/denoise
    python experiments/benchmarks/restoration.py --model runs/denoise

Expected after 64,000 images (22 minutes on 2 CPU cores with other work beside it), one seed: 0.713 ± 0.014 nats per
token on 256 of the test images, and 23.3 dB for the mean of the draws over all kinds of damage. The table in
docs/results/restoration.md is beside classical methods, ridge regression and a small network, which are told the damage
(the model is not): it is the best of all for noise, and loses to some of them at blur. With --data.degrade blur:1 it
learns blur alone, and is the best of all there: 33.3 dB, ridge regression 30.2.

For an accelerator, not run yet: --model.grid 28 28 --model.prefix-slots 196 --model.n-layer 8 --model.n-head 8
--model.d-model 512 --data.batch-size 128 --train.steps 20000. In colour and on parts of pictures: restore_emoji.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` only shows that it works."""
    return Config(
        name="denoise",
        objective="restore",
        model=ModelConfig(
            grid=(14, 14),
            vocab_size=16,
            n_layer=1 if tiny else 3,
            n_head=2,
            d_model=16 if tiny else 96,
            prefix_slots=49,
            prefix_values=4,
            aligned_values=49,
        ),
        data=DataConfig(
            source="idx:/usr/share/datasets/fashion-mnist",
            batch_size=8 if tiny else 16,
            channels=1,
            flip=True,
            degrade=("gaussian:0.2", "blur:1", "downsample:2", "jpeg:10"),
        ),
        palette=PaletteConfig(kind="levels"),
        optim=OptimConfig(lr=3e-3, warmup_steps=2 if tiny else 100, clip_norm=1.0, ema_decay=0.99),
        train=TrainConfig(
            steps=4 if tiny else 4000,
            log_every=2 if tiny else 50,
            eval_every=4 if tiny else 500,
            checkpoint_every=4 if tiny else 500,
            sample_every=0 if tiny else 2000,
            eval_batch_size=16 if tiny else 64,
            eval_images=16 if tiny else 256,
        ),
    )
