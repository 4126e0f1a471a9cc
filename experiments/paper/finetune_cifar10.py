"""Fine-tuning on CIFAR-10: classification and generation together (paper sections 2.3, 3.4 and 4.5).

    igpt train paper/finetune_cifar10 --workdir runs/cifar10 --init-from weights/igpt-l --palette.kind pretrained
    igpt eval --model runs/cifar10/best

Expected accuracy of iGPT-L: 99.0 % (paper table 3; BERT 98.6 %).
The rate is constant, and the weights with the best validation accuracy are kept. The paper searched the rate, often ten
times below that of pretraining, and publishes neither rates nor epochs; try --optim.lr 3e-4, 1e-4 and 3e-5. Head on a
middle layer: --model.clf-layer 24. From scratch: --model.preset l, without --init-from and --palette.kind.
Hardware (not run): iGPT-L takes 4 devices of 80 GB or more with --mesh.fsdp 4 --compute.remat dots.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    return Config(
        name="finetune_cifar10",
        objective="joint",
        model=ModelConfig.preset("tiny", d_model=16, clf_classes=10) if tiny else ModelConfig(clf_classes=10),
        data=DataConfig(
            source="digits" if tiny else "tfds:cifar10",
            validation=0.1,
            batch_size=8 if tiny else 128,
            augment="cifar",
            flip=True,
        ),
        optim=OptimConfig(lr=1e-4, warmup_steps=1 if tiny else 1000, schedule="constant"),
        train=TrainConfig(
            steps=2 if tiny else 50_000,
            log_every=1 if tiny else 50,
            eval_every=2 if tiny else 1000,
            checkpoint_every=2 if tiny else 1000,
            best="accuracy",
            patience=5,
            eval_batch_size=8 if tiny else 128,
            eval_images=16 if tiny else None,
        ),
    )
