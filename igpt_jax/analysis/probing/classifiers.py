"""Classifiers of feature vectors, one row of a table each; of which one, the attentive probe, learns how to weigh the
slots of a layer, instead of averaging them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from igpt_jax import progress
from igpt_jax.analysis.classifiers import LOGISTIC, NEIGHBOURS, SUPPORT_VECTORS, TREES, Method, Predict
from igpt_jax.config import ProbeConfig

BATCH = 256
STEPS = 3000
"""Of the attentive probe."""
HEADS = 4


def fit_sgd(x: np.ndarray, y: np.ndarray, rate: float, steps: int = ProbeConfig.sgd_steps) -> Predict:
    """Logistic regression by gradient descent with momentum 0.9 and a cosine schedule from `rate` to 0.

    The paper does so on ImageNet (section 4.2), with 1,000,000 steps; it does not say the batch size. Features have
    mean 0 and variance 1, the weights start at 0, and images are drawn with replacement.
    """
    mean, deviation = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    scaled, classes = jnp.asarray((x - mean) / deviation), np.unique(y)
    labels = jnp.asarray(np.searchsorted(classes, y))
    tx = optax.sgd(optax.cosine_decay_schedule(rate, steps), momentum=0.9)
    params = {"w": jnp.zeros((x.shape[1], len(classes))), "b": jnp.zeros(len(classes))}
    key = jax.random.key(0)

    def loss(params: optax.Params, at: jax.Array) -> jax.Array:
        logits = scaled[at] @ params["w"] + params["b"][None]  # pyright: ignore
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[at]).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state: tuple[optax.Params, optax.OptState], first: jax.Array) -> tuple[optax.Params, optax.OptState]:
        def step(state: tuple[optax.Params, optax.OptState], i: jax.Array):
            at = jax.random.randint(jax.random.fold_in(key, i), (BATCH,), 0, len(labels))
            updates, opt_state = tx.update(jax.grad(loss)(state[0], at), state[1])
            return (optax.apply_updates(state[0], updates), opt_state), None

        return jax.lax.scan(step, state, first + jnp.arange(1000))[0]

    state = (params, tx.init(params))
    for first in range(0, steps, 1000):  # steps past the end have a rate of 0
        progress.report("fitting", first, steps)
        state = run(state, np.int32(first))
    progress.report("fitting", steps, steps)
    fitted: dict[str, np.ndarray] = jax.device_get(state[0])
    return lambda x: classes[np.argmax((x - mean) / deviation @ fitted["w"] + fitted["b"], axis=1)]


class Weights(NamedTuple):
    """What is learned of H heads. With queries of 0, every head is the average over slots."""

    queries_HD: jax.Array
    w_HDC: jax.Array
    b_C: jax.Array


class Moments(NamedTuple):
    """Of the training features over images and slots, float32 [D] each."""

    mean: jax.Array | np.ndarray
    deviation: jax.Array | np.ndarray


def class_logits(weights: Weights, moments: Moments, x_BTD: jax.Array) -> jax.Array:
    """float32 [B, C] from standardised features. Each head averages the slots with the softmax of their products with
    its query.

    Keys and values have no matrices of their own: with a learned query, and a linear layer behind the values, they
    would add nothing (El-Nouby et al. 2024, "Scalable Pre-training of Large Autoregressive Image Models", section 3.3,
    have them).
    """
    # The features themselves are read as they are: dividing the query does the same, the mean moves all scores of a
    # query alike, and what is averaged is standardised after it.
    queries_HD = weights.queries_HD / moments.deviation[None]
    scores_BHT = jnp.einsum("btd,hd->bht", x_BTD, queries_HD) / np.sqrt(x_BTD.shape[-1])
    pooled_BHD = jnp.einsum("bht,btd->bhd", jax.nn.softmax(scores_BHT), x_BTD)
    pooled_BHD = (pooled_BHD - moments.mean[None, None]) / moments.deviation[None, None]
    return jnp.einsum("bhd,hdc->bc", pooled_BHD, weights.w_HDC) + weights.b_C[None]


def fit_attentive(
    x: np.ndarray, y: np.ndarray, rate: float, steps: int | None = None, batch: int = BATCH
) -> Callable[[np.ndarray], np.ndarray]:
    """Fits the probe by AdamW with a cosine schedule from `rate` to 0, on features of mean 0 and variance 1.

    x, float32 [n, T, D], the states of one layer, stays in the host's memory; images are drawn with replacement.
    """
    steps = steps or STEPS
    moments = _moments(x)
    classes, labels = np.unique(y, return_inverse=True)
    rng, width = np.random.default_rng(0), x.shape[2]
    weights = Weights(
        0.02 * jax.random.normal(jax.random.key(0), (HEADS, width)),  # heads that begin alike would stay so
        jnp.zeros((HEADS, width, len(classes))),
        jnp.zeros(len(classes)),
    )
    rates, opt_state = optax.cosine_decay_schedule(rate, steps), _ADAMW.init(weights)
    for i in range(steps):
        progress.report("fitting", i, steps)
        at = rng.integers(0, len(x), batch)
        weights, opt_state = _step(weights, opt_state, moments, rates(i), x[at], labels[at])
    progress.report("fitting", steps, steps)

    def predict(x: np.ndarray) -> np.ndarray:
        return classes[
            np.concatenate([_best_class(weights, moments, x[i : i + batch]) for i in range(0, len(x), batch)])
        ]

    return predict


_ADAMW = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(1e-2))
"""The rate is an argument of each step, so that all rates share a program."""


@jax.jit
def _step(
    weights: Weights, opt_state: Any, moments: Moments, rate: jax.Array, x_BTD: jax.Array, labels_B: jax.Array
) -> tuple[Weights, optax.OptState]:
    def loss(weights: Weights) -> jax.Array:
        logits_BC = class_logits(weights, moments, x_BTD)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BC, labels_B).mean()

    updates, opt_state = _ADAMW.update(jax.grad(loss)(weights), opt_state, weights)
    return jax.tree.map(lambda w, update: w - rate * update, weights, updates), opt_state


@jax.jit
def _best_class(weights: Weights, moments: Moments, x_BTD: jax.Array) -> jax.Array:
    return jnp.argmax(class_logits(weights, moments, x_BTD), axis=1)


def _moments(x: np.ndarray) -> Moments:
    mean = x.mean(axis=(0, 1), dtype=np.float64)
    square = np.einsum("ntd,ntd->d", x, x, dtype=np.float64) / (x.shape[0] * x.shape[1])
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
    return Moments(mean.astype(np.float32), deviation.astype(np.float32))


METHODS: dict[str, Method] = {
    "lbfgs": LOGISTIC,
    "sgd": Method("logistic regression", "rate", (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01), fit_sgd),
    "neighbours": NEIGHBOURS,
    "support_vectors": SUPPORT_VECTORS,
    "trees": TREES,
    "attentive": Method("attentive", "rate", (1e-2, 3e-3, 1e-3, 3e-4), fit_attentive),
}
"""Every way to classify feature vectors."""
