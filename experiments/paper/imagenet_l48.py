"""iGPT-L on ImageNet at 48 x 48 (paper table 2).

    igpt train paper/imagenet_l48 --workdir runs/imagenet_l48 --palette.path weights/igpt-s/kmeans_centers.npy
    igpt eval --model runs/imagenet_l48
    igpt probe --model runs/imagenet_l48 --method sgd --sgd-steps 1000000 --layers 20 24 28

Expected: linear probe 65.2 % (paper table 2); the paper gives no loss.
Estimated, not run: 2.7e21 FLOP, 3,300 v5p chip hours at half of their peak.
Sharding: --mesh.fsdp 8 --compute.remat dots. The features of one layer take 8.2 GB of host memory.
BERT: --objective bert --model.no-causal --optim.lr 0.001.
docs/paper.md says what the paper leaves open.
"""

from igpt_jax.analysis.paper import on_digits, pretraining
from igpt_jax.config import Config, ModelConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    cfg = pretraining("imagenet_l48", ModelConfig.preset("l", grid=(48, 48)), lr=1e-2)
    return on_digits(cfg) if tiny else cfg
