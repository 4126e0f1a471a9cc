"""Images of 2 x 2 pixels in 3 colours: all 81 can be listed, so every distribution can be computed exactly."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax import ImageGPT, ModelConfig, Palette
from igpt_jax.evaluation.orders import nats_in_order
from igpt_jax.model.decoder import example_inputs
from tests.conftest import randomized

PALETTE = Palette.levels(3)
IMAGES = np.array(list(itertools.product(range(3), repeat=4)), np.int32)
ORDERS_OF_FOUR = np.array(list(itertools.permutations(range(4))), np.int32)
SIZES = dict(grid=(2, 2), vocab_size=3, n_layer=1, n_head=2, d_model=16)


@functools.cache
def toy(**cfg):
    """(model, params) with every parameter random, those that start at zero included."""
    model = ImageGPT(ModelConfig(**SIZES | cfg))
    params = jax.jit(model.init)(jax.random.key(0), example_inputs(model.cfg))["params"]
    params = randomized(params, 0.6)
    return model, params | {"wtet": 3 * params["wtet"]}  # so that some colours are far more likely than others


@functools.partial(jax.jit, static_argnames="model")
def log_p(model, params, order_BT):
    """float32 [81]: log-probability of every image in an order."""
    return -nats_in_order(model, params, jnp.asarray(IMAGES), order_BT).sum(axis=1)


def conditional(p_of_image, image, hole):
    """Probability of every image that agrees with `image` outside the hole, given that; 0 for others."""
    agrees = (IMAGES[:, ~hole] == image[~hole]).all(axis=1)
    p = np.where(agrees, np.asarray(p_of_image, np.float64), 0)
    return p / p.sum()


def chi_square(drawn, p):
    """Of images drawn [n, 4], against their probabilities [81]; and the bound it exceeds once in 10,000 times."""
    from scipy import stats

    counts = np.bincount(drawn @ 3 ** np.arange(4)[::-1], minlength=81)
    assert counts[p == 0].sum() == 0
    expected = p[p > 0] * len(drawn)
    value = ((counts[p > 0] - expected) ** 2 / expected).sum()
    return value, stats.chi2.isf(1e-4, (p > 0).sum() - 1)
