"""iGPT-M on ImageNet at 32 x 32 (paper section 3; release: igpt-m).

    igpt train paper/imagenet_m --workdir runs/imagenet_m --palette.path weights/igpt-s/kmeans_centers.npy
    igpt eval --model runs/imagenet_m
    igpt probe --model runs/imagenet_m --method sgd --sgd-steps 1000000

Expected: 2.0614 nats per token (release); linear probe 54.5 % (paper section 4.2).
Hardware (estimated, not run): 4e20 FLOP, 470 v5p chip hours at half of their peak.
Sharding: --mesh.fsdp 4 --compute.remat dots.
BERT: --objective bert --model.no-causal --optim.lr 0.003.
docs/paper.md says what the paper leaves open.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    return Config(
        name="imagenet_m",
        model=ModelConfig.preset("tiny", d_model=16) if tiny else ModelConfig.preset("m"),
        data=DataConfig(
            source="digits" if tiny else "tfds:imagenet2012",
            eval_split="validation",
            validation=0.04,
            batch_size=8 if tiny else 128,
            augment="imagenet",
        ),
        palette=PaletteConfig() if tiny else PaletteConfig(kind="file", path="kmeans_centers.npy"),
        optim=OptimConfig(lr=3e-3, warmup_steps=1 if tiny else 10_009),
        train=TrainConfig(
            steps=2 if tiny else 1_000_000,
            log_every=1 if tiny else 100,
            eval_every=2 if tiny else 10_000,
            checkpoint_every=2 if tiny else 10_000,
            eval_batch_size=8 if tiny else 128,
            eval_images=16 if tiny else 10_000,
        ),
    )
