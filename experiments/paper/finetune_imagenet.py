"""Fine-tuning on ImageNet: classification and generation together (paper sections 2.3, 3.4 and 4.5).

    igpt train paper/finetune_imagenet --workdir runs/imagenet --init-from weights/igpt-l --palette.kind pretrained
    igpt eval --model runs/imagenet/best

Expected accuracy of iGPT-L: 66.3 % at 32 x 32 (BERT 66.5 %), 72.6 % at 48 x 48 (paper table 3).
The rate is constant, and the weights with the best validation accuracy are kept. The paper searched the rate, often ten
times below that of pretraining, and publishes neither rates nor epochs; try --optim.lr 3e-4, 1e-4 and 3e-5. Head on a
middle layer: --model.clf-layer 24. From scratch: --model.preset l, without --init-from and --palette.kind.
Hardware (not run): iGPT-L takes 4 devices of 80 GB or more with --mesh.fsdp 4 --compute.remat dots.
"""

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def config(tiny: bool = False) -> Config:
    """The run; `tiny` shows that it works, on digits."""
    return Config(
        name="finetune_imagenet",
        objective="joint",
        model=ModelConfig.preset("tiny", d_model=16, clf_classes=10) if tiny else ModelConfig(clf_classes=1000),
        data=DataConfig(
            source="digits" if tiny else "tfds:imagenet2012",
            eval_split="validation",
            validation=0.04,
            batch_size=8 if tiny else 128,
            augment="imagenet",
            flip=False,
        ),
        optim=OptimConfig(lr=1e-4, warmup_steps=1 if tiny else 1000, schedule="constant"),
        train=TrainConfig(
            steps=2 if tiny else 500_000,
            log_every=1 if tiny else 50,
            eval_every=2 if tiny else 10_000,
            checkpoint_every=2 if tiny else 1000,
            best="accuracy",
            patience=5,
            eval_batch_size=8 if tiny else 128,
            eval_images=16 if tiny else None,
        ),
    )
