"""The paper's recipes and figures (Chen et al., "Generative Pretraining from Pixels", 2020).

The files of `experiments/paper/` are built from these; docs/paper.md says what the paper leaves open.
"""

from __future__ import annotations

from dataclasses import replace

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig

FIGURES = {
    "imagenet_s": "2.0895 nats per token (release), probe 41.9 %",
    "imagenet_m": "2.0614 nats per token (release), probe 54.5 %",
    "imagenet_l": "2.0466 nats per token (release), probe 60.3 %",
    "imagenet_l48": "probe 65.2 %",
    "imagenet_xl": "probe 68.7 %, five layers 72.0 %",
    "finetune_cifar10": "accuracy 99.0 % (iGPT-L)",
    "finetune_cifar100": "accuracy 88.5 % (iGPT-L)",
    "finetune_imagenet": "accuracy 66.3 % (iGPT-L at 32 x 32)",
}
"""Name of a run (`Config.name`) -> its figures in the paper, or of the weights that were released."""

IMAGENET_WARMUP = 10_009
"""Steps of 128 images in one epoch of ImageNet, for which the rate rises (section 3.3)."""


def pretraining(
    name: str,
    model: ModelConfig,
    *,
    lr: float,
    batch_size: int = 128,
    steps: int = 1_000_000,
    warmup_steps: int = IMAGENET_WARMUP,
) -> Config:
    """Pretraining on ImageNet (sections 3.1 to 3.3): Adam with b2 = 0.95, cosine rate, no decay, 4 % for validation."""
    return Config(
        name=name,
        model=model,
        data=DataConfig(
            source="tfds:imagenet2012",
            eval_split="validation",
            validation=0.04,
            batch_size=batch_size,
            augment="imagenet",
        ),
        palette=PaletteConfig(kind="file", path="kmeans_centers.npy"),
        optim=OptimConfig(lr=lr, warmup_steps=warmup_steps),
        train=TrainConfig(
            steps=steps,
            log_every=100,
            eval_every=10_000,
            checkpoint_every=10_000,
            eval_batch_size=128,
            eval_images=10_000,
        ),
    )


def fine_tuning(name: str, data: DataConfig, *, classes: int, steps: int, eval_every: int) -> Config:
    """Classification and generation together (sections 2.3 and 3.4), ended when validation accuracy rises no more.

    The paper publishes neither rates nor numbers of steps; these are ours. Five measurements of the validation accuracy
    without a better one end the run.
    """
    return Config(
        name=name,
        objective="joint",
        model=ModelConfig(clf_classes=classes),
        data=data,
        optim=OptimConfig(lr=1e-4, warmup_steps=1000, schedule="constant"),
        train=TrainConfig(
            steps=steps,
            log_every=50,
            eval_every=eval_every,
            checkpoint_every=1000,
            best="accuracy",
            patience=5,
            eval_batch_size=128,
        ),
    )


def on_digits(cfg: Config) -> Config:
    """Two steps of the same recipe with a tiny model on scikit-learn's digits, to see that it works."""
    return replace(
        cfg,
        model=ModelConfig.preset("tiny", d_model=16, clf_classes=min(cfg.model.clf_classes, 10)),
        data=replace(cfg.data, source="digits", batch_size=8),
        palette=PaletteConfig(),
        optim=replace(cfg.optim, warmup_steps=1),
        train=replace(
            cfg.train,
            steps=2,
            log_every=1,
            eval_every=2,
            checkpoint_every=2,
            eval_batch_size=8,
            eval_images=16,
        ),
    )
