"""iGPT-XL at 64 x 64 (paper table 2).

    igpt train paper/imagenet_xl --workdir runs/imagenet_xl --palette.path weights/igpt-s/kmeans_centers.npy
    igpt eval --model runs/imagenet_xl
    igpt probe --model runs/imagenet_xl --method sgd --sgd-steps 1000000 --layers 26 28 30 32 34 --together 5

Expected: linear probe 68.7 %, of five layers together 72.0 % (paper table 2), with 100 million more images from the
web, which were not published; on ImageNet alone nothing is known.
Estimated, not run: 2.4e22 FLOP, 29,000 v5p chip hours at half of their peak. Sharding: --mesh.fsdp 8 --compute.remat
dots. The features of one layer take 16.4 GB of host memory, and five together as much again while they are fitted.
BERT: --objective bert --model.no-causal --optim.lr 0.0003.
docs/paper.md says what the paper leaves open.
"""

from igpt_jax.analysis.paper import on_digits, pretraining
from igpt_jax.config import Config, ModelConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    model = ModelConfig.preset("xl", grid=(64, 64))
    cfg = pretraining("imagenet_xl", model, lr=3e-4, batch_size=64, steps=2_000_000, warmup_steps=20_018)
    return on_digits(cfg) if tiny else cfg
