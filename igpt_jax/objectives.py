"""Objectives: (params, batch, keys_B) -> the means that make the loss, one function each, picked from a table.

A batch holds uint8 `image` [B, Y, X, C], int `label` [B] (-1 for none) where classes matter and, when some rows are
padding, float32 `weight` [B]; colours become tokens here, on the device. Every image has a key of its own, so what is
drawn for it depends on no other image. Optimizers, averaging over time and evaluation loops are left to others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from igpt_jax.config import ModelConfig
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette

Params = Any
Batch = Mapping[str, jax.Array]

MASKED = 0.15
"""Probability with which BERT blanks a token (appendix A.1: 0.20 is as good, more is worse)."""


class Mean(NamedTuple):
    """A mean as its two sums, so that means over parts add up to the exact mean over all."""

    total: jax.Array
    weight: jax.Array

    @property
    def value(self) -> jax.Array:
        return self.total / jnp.maximum(self.weight, 1.0)


class Terms(NamedTuple):
    """What an objective computes of some images."""

    losses: dict[str, Mean]
    """The loss is the sum of their values. No weight depends on the parameters."""
    metrics: dict[str, Mean]
    """Means that only tell."""

    @property
    def means(self) -> dict[str, Mean]:
        return self.losses | self.metrics

    @property
    def weights(self) -> dict[str, jax.Array]:
        return {name: mean.weight for name, mean in self.losses.items()}

    def loss(self, weights: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """The loss; or the part of it that these images make in a larger batch, of which the weights are given."""
        whole = self.weights if weights is None else weights
        return sum(Mean(mean.total, whole[name]).value for name, mean in self.losses.items())  # pyright: ignore


Objective = Callable[[Params, Batch, jax.Array], Terms]


def stream(seed: int, purpose: Literal["train", "eval"]) -> jax.Array:
    """The key from which a purpose draws everything, so that none repeats the numbers of another."""
    return jax.random.fold_in(jax.random.key(seed), {"train": 1, "eval": 2}[purpose])


def headline(cfg: ModelConfig) -> str:
    """The name of the generative loss of a model: those of AR and BERT are not the same quantity."""
    return "nats_per_token" if cfg.causal else "nats_per_masked_token"


def token_nats(logits_BTV: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """float32 [B, T]: -log p of each token, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits_BTV.astype(jnp.float32), tokens_BT)


def draw_keep(keys_B: jax.Array, n_ctx: int) -> jax.Array:
    """bool [B, T]: which tokens a BERT model gets to see; each is blanked with probability 0.15 on its own."""
    return jax.vmap(lambda key: jax.random.uniform(key, (n_ctx,)) > MASKED)(keys_B)


def make_ar(model: ImageGPT, palette: Palette) -> Objective:
    """Next-pixel prediction: the mean of -log p over all T tokens, the first included, in nats (paper section 2.1).

    A class-conditional model is told the label.
    """

    def ar(params: Params, batch: Batch, keys_B: jax.Array) -> Terms:
        del keys_B  # nothing is drawn
        tokens_BT = _tokens(palette, batch)
        class_B = batch["label"] if model.cfg.cond_classes else None
        logits_BTV: Any = model.apply({"params": params}, tokens_BT, class_B=class_B)
        return Terms({headline(model.cfg): _generative(logits_BTV, tokens_BT, None, batch)}, {})

    return ar


def make_bert(model: ImageGPT, palette: Palette) -> Objective:
    """Masked-pixel prediction (paper section 2.1; release, `src/model.py`).

    Tokens are blanked at random, and the loss is the mean of -log p over an image's blanked tokens, then over images,
    in nats. Masks are drawn anew in every pass, in evaluation too. An image of which nothing was blanked is left out.
    """

    def bert(params: Params, batch: Batch, keys_B: jax.Array) -> Terms:
        tokens_BT = _tokens(palette, batch)
        keep_BT = draw_keep(keys_B, model.cfg.n_ctx)
        logits_BTV: Any = model.apply({"params": params}, tokens_BT, keep_BT)
        return Terms({headline(model.cfg): _generative(logits_BTV, tokens_BT, keep_BT, batch)}, {})

    return bert


def make_joint(model: ImageGPT, palette: Palette) -> Objective:
    """L_GEN + L_CLF with equal weight, from one pass (paper section 2.3); L_GEN is AR's or BERT's, as the model is.

    L_CLF is the mean of -log p of the labels, in nats; images without one (-1) count in L_GEN alone.
    """

    def joint(params: Params, batch: Batch, keys_B: jax.Array) -> Terms:
        tokens_BT = _tokens(palette, batch)
        keep_BT = None if model.cfg.causal else draw_keep(keys_B, model.cfg.n_ctx)
        logits: Any = model.apply({"params": params}, tokens_BT, keep_BT, method="logits_and_classes")
        logits_BTV, logits_BC = logits
        gen = _generative(logits_BTV, tokens_BT, keep_BT, batch)
        label_B = batch["label"]
        weight_B = _weight(batch) * (label_B >= 0)
        nats_B = token_nats(logits_BC[:, None], jnp.maximum(label_B, 0)[:, None])[:, 0]
        clf = _mean(nats_B, weight_B)
        right = _mean((jnp.argmax(logits_BC, axis=-1) == label_B).astype(jnp.float32), weight_B)
        return Terms({headline(model.cfg): gen, "clf_nats": clf}, {"clf_accuracy": right})

    return joint


OBJECTIVES: dict[str, Callable[[ImageGPT, Palette], Objective]] = {
    "ar": make_ar,
    "bert": make_bert,
    "joint": make_joint,
}


def _tokens(palette: Palette, batch: Batch) -> jax.Array:
    image = batch["image"]
    return palette.encode(image).reshape(image.shape[0], -1)


def _weight(batch: Batch) -> jax.Array:
    return batch["weight"] if "weight" in batch else jnp.ones(batch["image"].shape[0], jnp.float32)


def _mean(x_B: jax.Array, weight_B: jax.Array) -> Mean:
    return Mean(jnp.sum(x_B * weight_B), jnp.sum(weight_B))


def _generative(logits_BTV: jax.Array, tokens_BT: jax.Array, keep_BT: jax.Array | None, batch: Batch) -> Mean:
    nats_BT, weight_B = token_nats(logits_BTV, tokens_BT), _weight(batch)
    if keep_BT is None:
        return _mean(nats_BT.mean(axis=1), weight_B)
    blanked_B = jnp.sum(~keep_BT, axis=1)
    nats_B = jnp.sum(nats_BT * ~keep_BT, axis=1) / jnp.maximum(blanked_B, 1)
    return _mean(nats_B, weight_B * (blanked_B > 0))
