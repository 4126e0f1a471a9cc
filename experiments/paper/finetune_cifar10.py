"""Fine-tuning on CIFAR-10: classification and generation together (paper sections 2.3, 3.4 and 4.5).

    igpt train paper/finetune_cifar10 --workdir runs/cifar10 --init-from weights/igpt-l --palette.kind pretrained
    igpt eval --model runs/cifar10/best

Expected accuracy of iGPT-L: 99.0 % (paper table 3; BERT 98.6 %).
The rate is constant, and the weights with the best validation accuracy are kept. The paper searched the rate, often ten
times below that of pretraining; try --optim.lr 3e-4, 1e-4 and 3e-5. Head on a middle layer: --model.clf-layer 24. From
scratch: --model.preset l, without --init-from and --palette.kind.
Not run. Weights, moments and gradient of iGPT-L take 22 GB, and activations come on top: --mesh.fsdp splits the first,
--compute.remat dots and --train.microbatches make the second smaller.
"""

from igpt_jax.analysis.paper import fine_tuning, on_digits
from igpt_jax.config import Config, DataConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    data = DataConfig(source="tfds:cifar10", validation=0.1, augment="cifar", flip=True)
    cfg = fine_tuning("finetune_cifar10", data, classes=10, steps=50_000, eval_every=1000)
    return on_digits(cfg) if tiny else cfg
