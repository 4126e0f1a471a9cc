"""Classifiers of feature vectors, and how their one setting is chosen."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from igpt_jax import progress
from igpt_jax.config import ProbeConfig
from igpt_jax.probing.attentive import fit_attentive

log = logging.getLogger(__name__)

Predict = Callable[[np.ndarray], np.ndarray]
"""float32 [n, D] or [n, T, D] -> int [n], the classes."""

SGD_BATCH = 256
ONE_THREAD_BELOW = 20_000_000
"""Smaller arrays of features are fitted on one core: threads wait for each other there (60 times slower was seen)."""


@dataclass(frozen=True)
class Method:
    """A kind of classifier."""

    setting: str
    """What is chosen on validation images."""
    choices: tuple[float, ...]
    """Tried in this order, until two in a row were worse than the best."""
    fit: Callable[[np.ndarray, np.ndarray, float], Predict]
    """(features float32 [n, D], labels int [n], setting) -> the classifier; of `attentive` they are [n, T, D]."""


def fit_logistic(x: np.ndarray, y: np.ndarray, c: float) -> Predict:
    """Logistic regression by L-BFGS, as in the paper (section 4.2), on features of mean 0 and variance 1.

    Args:
      c: scikit-learn's C, the inverse of the penalty on squared weights.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    threads = 1 if x.size < ONE_THREAD_BELOW else None
    with warnings.catch_warnings(record=True) as raised, threadpool_limits(threads, "blas"):
        warnings.simplefilter("always")
        model.fit(x, y)
    if any(issubclass(w.category, ConvergenceWarning) for w in raised):
        log.warning("logistic regression with C %g has not converged after 1000 iterations", c)
    return model.predict


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


def fit_neighbours(x: np.ndarray, y: np.ndarray, k: float) -> Predict:
    """The class that most of the k nearest training images have (Euclidean distance)."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(int(k), n_jobs=-1).fit(x, y).predict


METHODS: dict[str, Method] = {
    "lbfgs": Method("C", tuple(10.0**i for i in range(-5, 4)), fit_logistic),
    "sgd": Method("rate", (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01), fit_sgd),
    "neighbours": Method("k", (1, 3, 5, 10, 20), fit_neighbours),
    "attentive": Method("rate", (1e-2, 3e-3, 1e-3, 3e-4), fit_attentive),
}
"""Every way to classify feature vectors."""


def choose(method: Method, accuracy: Callable[[float], float], most: float = np.inf) -> tuple[float, float]:
    """The setting with the best accuracy, and that accuracy.

    Args:
      accuracy: setting -> accuracy on images that the classifier was not fitted to.
      most: larger settings are left out, as k above the number of images.
    """
    best, best_accuracy, worse = method.choices[0], -1.0, 0
    for setting in method.choices:
        if setting > most:
            continue
        measured = accuracy(setting)
        worse = 0 if measured >= best_accuracy else worse + 1
        if measured > best_accuracy:
            best, best_accuracy = setting, measured
        if worse == 2:
            break
    return best, best_accuracy


def vote(predict: Predict, draws: Sequence[np.ndarray] | np.ndarray, seed: int = 0) -> np.ndarray:
    """int [n]: the class that most draws of an image's features name, at random among equals (paper section 4.6).

    Args:
      draws: float32 [M, n, D] or [M, n, T, D].
    """
    named = np.stack([predict(x) for x in draws])
    if len(named) == 1:
        return named[0]
    classes = np.unique(named)
    votes = (named[..., None] == classes).sum(axis=0) + np.random.default_rng(seed).random(
        (len(named[0]), len(classes))
    )
    return classes[votes.argmax(axis=1)]
