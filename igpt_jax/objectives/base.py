"""What an objective is, and the one loss that all of them share: a weighted cross-entropy.

A batch holds uint8 `image` [B, Y, X, C], int `label` [B] (-1 for none), where some rows are padding float32 `weight`
[B], and with data.degrade uint8 `damaged` [B, Y, X, C]. Colours become tokens here, on the device. Every image has a
key of its own, so what is drawn for it does not depend on other images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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

CLASS_LOSS = "clf_nats"
CLASS_DROPOUT = 1
"""Folded into an image's key for what `drop_classes` draws, so that objectives, which use the key itself, do not."""


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
    """The name of the token loss, which says what is averaged: nats per what."""
    draws: int = 1
    """How often each held-out image is evaluated, each time with another key; more than 1 if masks are drawn."""
    evaluators: tuple[str, ...] = ("likelihood",)
    """What is measured on held-out images: names in `igpt_jax.evaluation.EVALUATORS`."""
    pictures: tuple[str, ...] = ("samples", "completions")
    """What is drawn while training and at the end: names in `igpt_jax.evaluation.PICTURES`."""
    whole_image: Callable[[jax.Array, jax.Array], Inputs] = read_raster
    """(tokens int [B, T], one key an image) -> what the decoder reads when the features of images are wanted."""
    whole_image_draws: int = 1
    """For how many keys the features of a held-out image are taken; more than 1 if masks are drawn."""
    masks: Callable[[jax.Array, int], jax.Array] | None = None
    """(one key an image, n_ctx) -> bool [B, T], which tokens the model sees, if the loss is of the others alone. Cheap
    methods are then measured behind the same masks, too."""
    restores: bool = False
    """Whether it reads `damaged` of a batch, the images with the damage of data.degrade."""


MakeObjective = Callable[[Config, Palette], Objective]
"""Raises InputError if the objective does not fit the configuration."""


def check_damage(cfg: Config, objective: Objective) -> None:
    """Raises InputError if an objective that restores has no damage to undo, or data.degrade makes damage in vain."""
    missing = "names no damage, which this objective undoes; --data.degrade gaussian:0.1 for example"
    require(bool(cfg.data.degrade) or not objective.restores, "data.degrade", missing)
    unread = f"objective {cfg.objective!r} does not read damaged images; leave it out, or take objective 'restore'"
    require(objective.restores or not cfg.data.degrade, "data.degrade", unread)


class Mean(NamedTuple):
    """A weighted mean as two sums, so that the sums over parts give the exact mean over all."""

    total: jax.Array
    weight: jax.Array

    @property
    def value(self) -> jax.Array:
        return self.total / jnp.where(self.weight > 0, self.weight, 1.0)

    @property
    def summed(self) -> Mean:
        """Of several means in arrays, the one over all of them."""
        return Mean(jnp.sum(self.total), jnp.sum(self.weight))


class Scores(NamedTuple):
    """What an example costs."""

    losses: dict[str, Mean]
    """The loss is the sum of their values."""
    metrics: dict[str, Mean]
    """Logged only; not part of the loss."""
    images: Mean
    """Of the tokens' loss, image by image: float32 [B] each."""

    @property
    def means(self) -> dict[str, Mean]:
        return self.losses | self.metrics

    def loss(self, weights: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """The loss; or, with the weights of a larger batch (`loss_weights`), the part that this example adds to it."""
        parts = [Mean(m.total, m.weight if weights is None else weights[name]) for name, m in self.losses.items()]
        return sum((part.value for part in parts), jnp.float32(0))


def score(model: ImageGPT, params: Any, example: Example, loss_name: str) -> Scores:
    """Runs the decoder on an example: cross-entropy of the tokens, and of the class where one is to be predicted."""
    if example.class_label is None:
        logits: Any = model.apply({"params": params}, example.inputs)
        images = cross_entropy(logits, example.labels, example.weights)
        return Scores({loss_name: images.summed}, {}, images)
    assert example.class_weight is not None
    both: Any = model.apply({"params": params}, example.inputs, method="logits_and_classes")
    logits, class_logits_BC = both
    right_B = (jnp.argmax(class_logits_BC, axis=-1) == example.class_label) * example.class_weight
    known_B = jnp.maximum(example.class_label, 0)  # -1 has weight 0
    images = cross_entropy(logits, example.labels, example.weights)
    classes = cross_entropy(class_logits_BC, known_B, example.class_weight)
    accuracy = Mean(right_B, example.class_weight).summed
    return Scores({loss_name: images.summed, CLASS_LOSS: classes.summed}, {"clf_accuracy": accuracy}, images)


def loss_weights(example: Example, loss_name: str) -> dict[str, jax.Array]:
    """What each loss of an example is divided by."""
    weights = {loss_name: jnp.sum(_of_each(example.weights))}
    return weights if example.class_weight is None else weights | {CLASS_LOSS: jnp.sum(example.class_weight)}


def cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Mean:
    """-log p in nats, weighted, of each image. logits [B, ..., V], labels int [B, ...], weights float32 [B, ...]."""
    return Mean(_of_each(token_nats(logits, labels) * weights), _of_each(weights))


def _of_each(x: jax.Array) -> jax.Array:
    """float32 [B]: the mean over slots. Its sum over images is more accurate than one sum over all of them."""
    return jnp.mean(x, axis=1) if x.ndim == 2 else x


def token_nats(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """float32 [...]: -log p of each label, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def batch_tokens(palette: Palette, batch: Batch) -> jax.Array:
    """int32 [B, T]: the images as palette ids in raster order."""
    image = batch["image"]
    return palette.encode(image).reshape(image.shape[0], -1)


def drop_classes(cfg: Config, batch: Batch, keys_B: jax.Array) -> Batch:
    """The batch with `told`, the class that a class-conditional model reads: the label, or -1 for no class in a share
    `class_dropout` of the images, at random. The batch itself for other models.

    So the model also learns the images of all classes together, which it draws where no class is asked for, and with
    which guidance compares (Ho and Salimans, 2022, "Classifier-free diffusion guidance").
    """
    if not cfg.model.cond_classes:
        return batch
    dropped_B = jax.vmap(lambda key: jax.random.bernoulli(key, cfg.class_dropout))(fold_in(keys_B, CLASS_DROPOUT))
    return {**batch, "told": jnp.where(dropped_B, -1, batch["label"])}


def told_class(cfg: ModelConfig, batch: Batch) -> jax.Array | None:
    """int [B]: what a class-conditional model is told, -1 for no class; None for other models."""
    return batch.get("told", batch["label"]) if cfg.cond_classes else None


def image_weights(batch: Batch) -> jax.Array:
    """float32 [B]: 1 for an image, 0 for padding."""
    return batch["weight"] if "weight" in batch else jnp.ones(batch["image"].shape[0], jnp.float32)
