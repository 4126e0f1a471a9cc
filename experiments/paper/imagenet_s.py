"""iGPT-S on ImageNet at 32 x 32 (paper section 3; release: igpt-s).

    igpt train paper/imagenet_s --workdir runs/imagenet_s --palette.path weights/igpt-s/kmeans_centers.npy
    igpt eval --model runs/imagenet_s
    igpt probe --model runs/imagenet_s --method sgd --sgd-steps 1000000

Expected: 2.0895 nats per token (release); linear probe 41.9 % (paper section 4.2).
Estimated, not run: 7e19 FLOP, 85 v5p chip hours at half of their peak. Every chip holds the model (3 GB), so nothing is
sharded. The features of all layers take 67 GB of host memory; name some --layers where there is less.
BERT: --objective bert --model.no-causal --optim.lr 0.01.
docs/paper.md says what the paper leaves open.
"""

from igpt_jax.analysis.paper import on_digits, pretraining
from igpt_jax.config import Config, ModelConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    cfg = pretraining("imagenet_s", ModelConfig.preset("s"), lr=3e-3)
    return on_digits(cfg) if tiny else cfg
