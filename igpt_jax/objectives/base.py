"""What an objective is, and the loss that most of them share: a weighted cross-entropy.

A batch holds uint8 `image` [B, Y, X, C], int `label` [B] (-1 for none), where some rows are padding float32 `weight`
[B], and with data.degrade uint8 `degraded` [B, Y, X, C]. Colours become tokens here, on the device. Every image has a
key of its own, so what is drawn for it does not depend on other images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from igpt_jax.config import Config, ModelConfig
from igpt_jax.errors import require
from igpt_jax.keys import fold_in
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.sequence import Example, Inputs, raster_inputs

Batch = Mapping[str, jax.Array]

CLASS_DROPOUT = 1
"""Folded into an image's key for what `drop_classes` draws, so that objectives, which use the key itself, do not."""


class Mean(NamedTuple):
    """A weighted mean as totals and weights, float32, of each image [B] or of all of them []."""

    total: jax.Array
    weight: jax.Array

    @property
    def value(self) -> jax.Array:
        return self.total / jnp.where(self.weight > 0, self.weight, 1.0)


class Scores(NamedTuple):
    """What the images of an example cost: means by name, of each image or, summed, of all of them."""

    losses: Mapping[str, Mean]
    """The loss is the sum of their means over the batch."""
    metrics: Mapping[str, Mean] = MappingProxyType({})
    """Logged only; not part of the loss."""

    @property
    def each(self) -> dict[str, Mean]:
        return {**self.losses, **self.metrics}

    @property
    def summed(self) -> Scores:
        losses, metrics = ({k: Mean(*map(jnp.sum, mean)) for k, mean in x.items()} for x in (self.losses, self.metrics))
        return Scores(losses, metrics)

    @property
    def loss(self) -> jax.Array:
        """Of summed scores."""
        return sum((mean.value for mean in self.losses.values()), jnp.float32(0))


class Figure(NamedTuple):
    """What a measured number is. Of figures in nats, bits are shown, too."""

    unit: Literal["nats", "accuracy", "dB", ""] = ""
    better: Literal["lower", "higher"] = "lower"


NATS, ACCURACY = Figure("nats"), Figure("accuracy", "higher")


def token_scores(model: ImageGPT, params: Any, example: Example, loss_name: str) -> Scores:
    """Cross-entropy of the tokens in nats."""
    logits: Any = model.apply({"params": params}, example.inputs)
    return Scores({loss_name: cross_entropy(logits, example.labels, example.weights)})


def read_raster(tokens_BT: jax.Array, keys_B: jax.Array) -> Inputs:
    """A whole image row by row, without its class."""
    del keys_B  # nothing is drawn
    return raster_inputs(tokens_BT)


@dataclass(frozen=True)
class Objective:
    """What a run learns, and what follows from it. Made by a row of `OBJECTIVES` for one configuration and palette."""

    example: Callable[[Batch, jax.Array], Example]
    """(batch, one key an image) -> what the decoder reads, the labels and their weights."""
    loss_name: str
    """What the main loss is called, which says what is averaged: nats_per_token."""
    score: Callable[[ImageGPT, Any, Example, str], Scores] = token_scores
    """(model, params, example, loss_name) -> losses, the one of `loss_name` among them, and metrics."""
    loss_figure: Figure = NATS
    """What the main loss is."""
    more_figures: Mapping[str, Figure] = field(default_factory=dict)
    """What else `score` gives, by name."""
    draws: int = 1
    """How often each held-out image is evaluated, each time with another key; more than 1 if masks are drawn."""
    evaluators: tuple[str, ...] = ("likelihood",)
    """What is measured on held-out images: names in `igpt_jax.evaluation.EVALUATORS`."""
    pictures: tuple[str, ...] = ("samples", "completions")
    """What is drawn at the end, the first also while training: names in `evaluation.PICTURES`; may be empty."""
    feature_inputs: Callable[[jax.Array, jax.Array], Inputs] = read_raster
    """(tokens int [B, T], one key an image) -> what the decoder reads to give the features of images."""
    feature_draws: int = 1
    """For how many keys the features of a held-out image are taken; more than 1 if masks are drawn."""
    restores: bool = False
    """Whether it reads `degraded` of a batch, the images with the degradation of data.degrade."""

    @property
    def figures(self) -> dict[str, Figure]:
        """What `score` gives, by name."""
        return {self.loss_name: self.loss_figure, **self.more_figures}


MakeObjective = Callable[[Config, Palette], Objective]
"""Raises InputError if the objective does not fit the configuration."""


def check_model(cfg: ModelConfig, objective: str, causal: bool) -> None:
    """Raises InputError unless the model is of the kind, and has no classification head that would stay untrained."""
    require(cfg.causal == causal, "model.causal", f"must be {causal} for objective {objective!r}")
    require(not cfg.clf_classes, "model.clf_classes", "a classification head needs objective 'joint'")


def check_degrade(cfg: Config, objective: Objective) -> None:
    """Raises InputError if an objective that restores has nothing to undo, or data.degrade is set in vain."""
    missing = "is empty; this objective needs a degradation, gaussian:0.1 for example"
    require(bool(cfg.data.degrade) or not objective.restores, "data.degrade", missing)
    unread = f"objective {cfg.objective!r} does not read degraded images; leave it out, or take objective 'restore'"
    require(objective.restores or not cfg.data.degrade, "data.degrade", unread)


def cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Mean:
    """-log p in nats, weighted, of each image. logits [B, ..., V], labels int [B, ...], weights float32 [B, ...]."""

    def of_each(x: jax.Array) -> jax.Array:
        """The mean over slots. Its sum over images is more accurate than one sum over all slots."""
        return jnp.mean(x, axis=1) if x.ndim == 2 else x

    return Mean(of_each(token_nats(logits, labels) * weights), of_each(weights))


def token_nats(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """float32 [...]: -log p of each label, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def batch_tokens(palette: Palette, batch: Batch) -> jax.Array:
    """int32 [B, T]: the images as palette ids in raster order."""
    image = batch["image"]
    return palette.encode(image).reshape(image.shape[0], -1)


def class_cond(cfg: ModelConfig, batch: Batch) -> jax.Array | None:
    """int [B]: the class that a class-conditional model reads, -1 for none; None for other models."""
    return batch["label"] if cfg.cond_classes else None


def drop_classes(example: Example, keys_B: jax.Array, share: float) -> Example:
    """The example with no class (-1) for a share of the images, at random; unchanged where no class is read.

    So the model also learns the images of all classes together, which it draws where no class is asked for, and with
    which guidance compares (Ho and Salimans, 2022, "Classifier-free diffusion guidance").
    """
    if example.inputs.class_id is None:
        return example
    dropped_B = jax.vmap(lambda key: jax.random.bernoulli(key, share))(fold_in(keys_B, CLASS_DROPOUT))
    return with_class(example, jnp.where(dropped_B, -1, example.inputs.class_id))


def with_class(example: Example, class_B: jax.Array) -> Example:
    """The example of images of other classes, int [B]."""
    return example._replace(inputs=example.inputs._replace(class_id=class_B))


def image_weights(batch: Batch) -> jax.Array:
    """float32 [B]: 1 for an image, 0 for padding."""
    return batch["weight"] if "weight" in batch else jnp.ones(batch["image"].shape[0], jnp.float32)
