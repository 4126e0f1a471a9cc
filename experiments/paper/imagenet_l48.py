"""iGPT-L on ImageNet at 48 x 48 (paper table 2).

    igpt train paper/imagenet_l48 --workdir runs/imagenet_l48 --palette.path weights/igpt-s/kmeans_centers.npy
    igpt eval --model runs/imagenet_l48
    igpt probe --model runs/imagenet_l48 --method sgd --sgd-steps 1000000

Expected: linear probe 65.2 % (paper table 2); the paper gives no loss.
Hardware (estimated, not run): 2.7e21 FLOP, 3,300 v5p chip hours at half of their peak.
Sharding: --mesh.fsdp 8 --compute.remat dots.
BERT: --objective bert --model.no-causal --optim.lr 0.001.
docs/paper.md says what the paper leaves open.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    return Config(
        name="imagenet_l48",
        model=ModelConfig.preset("tiny", d_model=16) if tiny else ModelConfig.preset("l", grid=(48, 48)),
        data=DataConfig(
            source="digits" if tiny else "tfds:imagenet2012",
            eval_split="validation",
            validation=0.04,
            batch_size=8 if tiny else 128,
            augment="imagenet",
        ),
        palette=PaletteConfig() if tiny else PaletteConfig(kind="file", path="kmeans_centers.npy"),
        optim=OptimConfig(lr=1e-2, warmup_steps=1 if tiny else 10_009),
        train=TrainConfig(
            steps=2 if tiny else 1_000_000,
            log_every=1 if tiny else 100,
            eval_every=2 if tiny else 10_000,
            checkpoint_every=2 if tiny else 10_000,
            eval_batch_size=8 if tiny else 128,
            eval_images=16 if tiny else 10_000,
        ),
    )
