"""The attentive probe: it is the linear one if it weighs all slots alike, and finds the slot that tells the class."""

import jax.numpy as jnp
import numpy as np

from igpt_jax.analysis.classifiers import fit_logistic
from igpt_jax.analysis.probing.classifiers import Moments, Weights, class_logits, fit_attentive


def marked(n, seed):
    """Twelve slots show classes at random, and a mark tells which one shows that of the image."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(0, 3, (n, 12))
    at = rng.integers(0, 12, n)
    x = np.concatenate([np.eye(3)[shown], np.zeros((n, 12, 1))], axis=2)
    x[np.arange(n), at, 3] = 1
    return (5 + 3 * x).astype(np.float32), np.array([2, 5, 7])[shown[np.arange(n), at]]


def test_it_finds_the_slot_that_tells_the_class_and_an_average_does_not():
    (x, y), (held_out, expected) = marked(600, 0), marked(200, 1)
    accuracy = (fit_attentive(x, y, 1e-2, steps=600, batch=64)(held_out) == expected).mean()
    average = (fit_logistic(x.mean(axis=1), y, 1.0)(held_out.mean(axis=1)) == expected).mean()
    assert accuracy > 0.95
    assert average < 0.7


def test_queries_of_zero_average_the_slots():
    rng = np.random.default_rng(0)
    x_BTD, w_HDC = rng.normal(size=(5, 7, 4)), rng.normal(size=(2, 4, 3))
    weights = Weights(jnp.zeros((2, 4)), jnp.asarray(w_HDC), jnp.arange(3.0))
    expected = x_BTD.mean(axis=1) @ w_HDC.sum(axis=0) + np.arange(3)
    as_they_are = Moments(np.zeros(4), np.ones(4))
    logits = class_logits(weights, as_they_are, jnp.asarray(x_BTD))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_features_are_standardised():
    rng = np.random.default_rng(0)
    x_BTD, mean, deviation = rng.normal(size=(5, 7, 4)), rng.normal(size=4), np.exp(rng.normal(size=4))
    weights = Weights(*(jnp.asarray(rng.normal(size=shape)) for shape in ((2, 4), (2, 4, 3), (3,))))
    expected = class_logits(weights, Moments(np.zeros(4), np.ones(4)), jnp.asarray((x_BTD - mean) / deviation))
    logits = class_logits(weights, Moments(mean, deviation), jnp.asarray(x_BTD))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
