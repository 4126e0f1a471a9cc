"""Cheap models of the same tokens, to compare a trained model with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax.datasets import subset
from igpt_jax.evaluation.base import EvalContext
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import put_batch, replicated

Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]

COUNTED_IMAGES = 10_000
"""Training images that the histograms count."""


def baselines(context: EvalContext) -> dict[str, float]:
    """Two untrained baselines, in nats per token on the held-out images."""
    counted = subset(context.data.train, COUNTED_IMAGES)
    train = functools.partial(context.data.eval_batches, counted)
    return {
        "per-pixel histograms": histogram_nats(train, context.batches, context.palette, context.mesh),
        "uniform": uniform_nats(context.palette.size),
    }


def uniform_nats(vocab_size: int) -> float:
    """Nats per token if all colours are equally likely."""
    return math.log(vocab_size)


def histogram_nats(train: Batches, held_out: Batches, palette: Palette, mesh: Mesh) -> float:
    """Nats per token if every position has its own colour histogram, counted on `train` plus one of each colour.

    Both give this process's weighted batches.
    """

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def count(batch: Mapping[str, jax.Array]) -> jax.Array:
        tokens_BT = palette.encode(batch["image"]).reshape(len(batch["image"]), -1)
        counts_TV = jnp.zeros((tokens_BT.shape[1], palette.size), jnp.float32)
        weight_BT = jnp.broadcast_to(batch["weight"][:, None], tokens_BT.shape)
        return counts_TV.at[jnp.arange(tokens_BT.shape[1])[None], tokens_BT].add(weight_BT)

    def counts(batches: Batches) -> np.ndarray:
        return sum(np.asarray(count(put_batch(batch, mesh)), np.float64) for batch in batches())  # pyright: ignore

    train_TV = counts(train) + 1
    nats_TV = -np.log(train_TV / train_TV.sum(axis=1, keepdims=True))
    held_out_TV = counts(held_out)
    return float((nats_TV * held_out_TV).sum() / held_out_TV.sum())
