"""Objectives: (params, batch, key) -> (loss, metrics), one function each, picked from a table.

A batch holds uint8 `image` [B, Y, X, C] and, when some rows are padding, float32 `weight` [B]; colours become tokens
here, on the device. Optimizers, averaging over time and evaluation loops are left to others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette

Params = Any
Batch = Mapping[str, jax.Array]
Objective = Callable[[Params, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def stream(seed: int, purpose: Literal["train", "eval"]) -> jax.Array:
    """The key from which a purpose draws everything, so that none repeats the numbers of another."""
    return jax.random.fold_in(jax.random.key(seed), {"train": 1, "eval": 2}[purpose])


def token_nats(logits_BTV: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """float32 [B, T]: -log p of each token, in nats."""
    logits_BTV = logits_BTV.astype(jnp.float32)
    picked_BT = jnp.take_along_axis(logits_BTV, tokens_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT


def make_ar(model: ImageGPT, palette: Palette) -> Objective:
    """Next-pixel prediction: the mean of -log p over all T tokens, the first included, in nats (paper section 2.1)."""

    def ar(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key  # nothing is drawn
        image = batch["image"]
        tokens_BT = palette.encode(image).reshape(image.shape[0], -1)
        logits_BTV: Any = model.apply({"params": params}, tokens_BT)
        nats_B = token_nats(logits_BTV, tokens_BT).mean(axis=1)
        weight_B = batch["weight"] if "weight" in batch else jnp.ones_like(nats_B)
        loss = jnp.sum(nats_B * weight_B) / jnp.maximum(jnp.sum(weight_B), 1.0)
        return loss, {"nats_per_token": loss}

    return ar


OBJECTIVES: dict[str, Callable[[ImageGPT, Palette], Objective]] = {"ar": make_ar}
