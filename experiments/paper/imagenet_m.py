"""iGPT-M on ImageNet at 32 x 32 (paper section 3; release: igpt-m).

    igpt train paper/imagenet_m --workdir runs/imagenet_m --palette.path weights/igpt-s/kmeans_centers.npy
    igpt eval --model runs/imagenet_m
    igpt probe --model runs/imagenet_m --method sgd --sgd-steps 1000000 --layers 14 18 22

Expected: 2.0614 nats per token (release); linear probe 54.5 % (paper section 4.2).
Estimated, not run: 4e20 FLOP, 470 v5p chip hours at half of their peak. Sharding: --mesh.fsdp 4 --compute.remat dots.
The features of one layer take 5.4 GB of host memory.
BERT: --objective bert --model.no-causal --optim.lr 0.003.
docs/paper.md says what the paper leaves open.
"""

from igpt_jax.analysis.paper import on_digits, pretraining
from igpt_jax.config import Config, ModelConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    cfg = pretraining("imagenet_m", ModelConfig.preset("m"), lr=3e-3)
    return on_digits(cfg) if tiny else cfg
