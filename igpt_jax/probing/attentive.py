"""The attentive probe: a classifier that learns how to weigh the slots of a layer, instead of averaging them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from igpt_jax import progress

STEPS = 3000
BATCH = 256
HEADS = 4


class Weights(NamedTuple):
    """What is learned of H heads. With queries of 0, every head is the average over slots."""

    queries_HD: jax.Array
    w_HDC: jax.Array
    b_C: jax.Array


def class_logits(weights: Weights, x_BTD: jax.Array) -> jax.Array:
    """float32 [B, C]. Each head averages the slots with the softmax of their products with its query.

    Keys and values have no matrices of their own: with a learned query, and a linear layer behind the values, they
    would add nothing (El-Nouby et al. 2024, "Scalable Pre-training of Large Autoregressive Image Models", section 3.3,
    have them).
    """
    scores_BHT = jnp.einsum("btd,hd->bht", x_BTD, weights.queries_HD) / np.sqrt(x_BTD.shape[-1])
    pooled_BHD = jnp.einsum("bht,btd->bhd", jax.nn.softmax(scores_BHT), x_BTD)
    return jnp.einsum("bhd,hdc->bc", pooled_BHD, weights.w_HDC) + weights.b_C[None]


def fit_attentive(
    x: np.ndarray,
    y: np.ndarray,
    rate: float,
    steps: int | None = None,
    batch: int = BATCH,
    heads: int = HEADS,
    seed: int = 0,
) -> Callable[[np.ndarray], np.ndarray]:
    """Fits the probe by AdamW with a cosine schedule from `rate` to 0, on features of mean 0 and variance 1.

    Args:
      x: float32 [n, T, D], the states of one layer. They stay in the host's memory; images are drawn with replacement.
      y: int [n], the classes.

    Returns:
      float32 [m, T, D] -> int [m], the classes.
    """
    steps = steps or STEPS
    mean_11D, deviation_11D = _moments(x)
    classes, labels = np.unique(y, return_inverse=True)
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    weights = Weights(
        0.02 * jax.random.normal(key, (heads, x.shape[2])),  # heads that begin alike would stay so
        jnp.zeros((heads, x.shape[2], len(classes))),
        jnp.zeros(len(classes)),
    )
    tx = optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=1e-2)

    def logits(weights: Weights, x_BTD: jax.Array) -> jax.Array:
        return class_logits(weights, (x_BTD - mean_11D) / deviation_11D)

    @jax.jit
    def step(weights: Weights, opt_state: optax.OptState, x_BTD: jax.Array, labels_B: jax.Array):
        def loss(weights: Weights) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(logits(weights, x_BTD), labels_B).mean()

        updates, opt_state = tx.update(jax.grad(loss)(weights), opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state

    opt_state = tx.init(weights)
    for i in range(steps):
        progress.report("fitting", i, steps)
        at = rng.integers(0, len(x), batch)
        weights, opt_state = step(weights, opt_state, x[at], labels[at])  # pyright: ignore
    progress.report("fitting", steps, steps)
    named = jax.jit(lambda x_BTD: jnp.argmax(logits(weights, x_BTD), axis=1))

    def predict(x: np.ndarray) -> np.ndarray:
        return classes[np.concatenate([named(x[i : i + batch]) for i in range(0, len(x), batch)])]

    return predict


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [1, 1, D] each: mean and deviation over images and slots."""
    mean = x.mean(axis=(0, 1), dtype=np.float64)
    square = np.einsum("ntd,ntd->d", x, x, dtype=np.float64) / (x.shape[0] * x.shape[1])
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
    return mean.astype(np.float32)[None, None], deviation.astype(np.float32)[None, None]
