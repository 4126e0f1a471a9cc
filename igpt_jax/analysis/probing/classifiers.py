"""Classifiers of feature vectors, one row of a table each, and the vote over several draws of features."""

from __future__ import annotations

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax

from igpt_jax import progress
from igpt_jax.analysis.classifiers import LOGISTIC, NEIGHBOURS, SUPPORT_VECTORS, TREES, Method, Predict
from igpt_jax.analysis.probing.attentive import fit_attentive
from igpt_jax.config import ProbeConfig

log = logging.getLogger(__name__)

SGD_BATCH = 256


def fit_sgd(
    x: np.ndarray, y: np.ndarray, rate: float, steps: int = ProbeConfig.sgd_steps, batch: int = SGD_BATCH, seed: int = 0
) -> Predict:
    """Logistic regression by gradient descent with momentum 0.9 and a cosine schedule from `rate` to 0.

    The paper does so on ImageNet (section 4.2), with 1,000,000 steps; it does not say the batch size. Features have
    mean 0 and variance 1, the weights start at 0, and images are drawn with replacement.
    """
    mean, deviation = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    scaled, classes = jnp.asarray((x - mean) / deviation), np.unique(y)
    labels = jnp.asarray(np.searchsorted(classes, y))
    tx = optax.sgd(optax.cosine_decay_schedule(rate, steps), momentum=0.9)
    params = {"w": jnp.zeros((x.shape[1], len(classes))), "b": jnp.zeros(len(classes))}
    key = jax.random.key(seed)

    def loss(params: optax.Params, at: jax.Array) -> jax.Array:
        logits = scaled[at] @ params["w"] + params["b"][None]  # pyright: ignore
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[at]).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state: tuple[optax.Params, optax.OptState], first: jax.Array) -> tuple[optax.Params, optax.OptState]:
        def step(state: tuple[optax.Params, optax.OptState], i: jax.Array):
            at = jax.random.randint(jax.random.fold_in(key, i), (batch,), 0, len(labels))
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


METHODS: dict[str, Method] = {
    "lbfgs": LOGISTIC,
    "sgd": Method("logistic regression", "rate", (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01), fit_sgd),
    "neighbours": NEIGHBOURS,
    "support_vectors": SUPPORT_VECTORS,
    "trees": TREES,
    "attentive": Method("attentive", "rate", (1e-2, 3e-3, 1e-3, 3e-4), fit_attentive),
}
"""Every way to classify feature vectors."""
