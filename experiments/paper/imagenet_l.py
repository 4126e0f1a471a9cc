"""iGPT-L on ImageNet at 32 x 32 (paper section 3; release: igpt-l).

    igpt train paper/imagenet_l --workdir runs/imagenet_l --palette.path weights/igpt-s/kmeans_centers.npy
    igpt eval --model runs/imagenet_l
    igpt probe --model runs/imagenet_l --method sgd --sgd-steps 1000000 --layers 20 24 28

Expected: 2.0466 nats per token (release); linear probe 60.3 % (paper table 2).
Estimated, not run: 1.1e21 FLOP, 1,350 v5p chip hours at half of their peak.
Sharding: --mesh.fsdp 4 --compute.remat dots. The features of one layer take 8.2 GB of host memory.
BERT: --objective bert --model.no-causal --optim.lr 0.001.
docs/paper.md says what the paper leaves open.
"""

from igpt_jax.analysis.paper import on_digits, pretraining
from igpt_jax.config import Config, ModelConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    cfg = pretraining("imagenet_l", ModelConfig.preset("l"), lr=1e-3)
    return on_digits(cfg) if tiny else cfg
