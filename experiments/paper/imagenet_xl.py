"""iGPT-XL at 64 x 64 (paper table 2).

    igpt train paper/imagenet_xl --workdir runs/imagenet_xl --palette.path weights/igpt-s/kmeans_centers.npy
    igpt eval --model runs/imagenet_xl
    igpt probe --model runs/imagenet_xl --method sgd --sgd-steps 1000000 --together 5

Expected: linear probe 68.7 %, of five layers together 72.0 % (paper table 2), with 100 million more images
    from the web, which were not published; on ImageNet alone nothing is known.
Hardware (estimated, not run): 2.4e22 FLOP, 29,000 v5p chip hours at half of their peak.
Sharding: --mesh.fsdp 8 --compute.remat dots.
BERT: --objective bert --model.no-causal --optim.lr 0.0003.
docs/paper.md says what the paper leaves open.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    return Config(
        name="imagenet_xl",
        model=ModelConfig.preset("tiny", d_model=16) if tiny else ModelConfig.preset("xl", grid=(64, 64)),
        data=DataConfig(
            source="digits" if tiny else "tfds:imagenet2012",
            eval_split="validation",
            validation=0.04,
            batch_size=8 if tiny else 64,
            augment="imagenet",
        ),
        palette=PaletteConfig() if tiny else PaletteConfig(kind="file", path="kmeans_centers.npy"),
        optim=OptimConfig(lr=3e-4, warmup_steps=1 if tiny else 20_018),
        train=TrainConfig(
            steps=2 if tiny else 2_000_000,
            log_every=1 if tiny else 100,
            eval_every=2 if tiny else 10_000,
            checkpoint_every=2 if tiny else 10_000,
            eval_batch_size=8 if tiny else 128,
            eval_images=16 if tiny else 10_000,
        ),
    )
