"""Fashion-MNIST (14 x 14 grey pixels, 16 levels) in any order, to fill holes; sized for an evening on two CPU cores.

    igpt train fashion_mnist --workdir runs/raster
    igpt train any_order --workdir runs/any --init-from runs/raster
    igpt inpaint pullover.png --fit --brush 3 --model runs/any

Expected after 96,000 images (65 minutes on 2 CPU cores with other work beside it; seed 0, 500 held-out images), in nats
per token: raster 0.772 (the raster run itself 0.786), random orders 0.930, where a network on 80 visible neighbours has
0.929. Per missing pixel under brush strokes 0.799 if all known pixels are read first, and 0.819 if only those before
are; with the centre missing 1.083 and 1.098. docs/results/holes.md has the course of training and the cheap methods
(experiments/benchmarks/inpainting.py).

Start from raster weights, which compute the same at first. A BERT model that fills holes: --objective ardm
--model.no-causal --model.no-any-order --optim.lr 2e-3 --train.steps 5000, without --init-from. On one GPU (not run
yet): --model.grid 28 28 --model.d-model 384 --model.n-layer 12 --model.n-head 6 --data.batch-size 256 --train.steps
20000, and the same sizes for the raster run.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, OrdersConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` only shows that it works."""
    return Config(
        name="any_order",
        objective="any_order",
        model=ModelConfig(
            grid=(14, 14),
            vocab_size=16,
            n_layer=1 if tiny else 4,
            n_head=2 if tiny else 4,
            d_model=16 if tiny else 128,
            any_order=True,
        ),
        data=DataConfig(source="idx:/usr/share/datasets/fashion-mnist", batch_size=8 if tiny else 32, channels=1),
        palette=PaletteConfig(kind="levels"),
        orders=OrdersConfig(raster=0.25, masked=0.5, random=0.25),
        optim=OptimConfig(lr=1.5e-3, warmup_steps=2 if tiny else 100, clip_norm=1.0, ema_decay=0.999),
        train=TrainConfig(
            steps=4 if tiny else 3000,
            log_every=2 if tiny else 50,
            eval_every=4 if tiny else 500,
            checkpoint_every=4 if tiny else 500,
            eval_batch_size=16 if tiny else 100,
            eval_images=16 if tiny else 500,
            eval_orders=2,
        ),
    )
