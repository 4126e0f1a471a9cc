"""Sampling with guesses gives the very images that one slot after another gives, in fewer passes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ImageGPT, ModelConfig, Palette, complete, sample
from igpt_jax.config import MeshConfig, SamplerConfig
from igpt_jax.model import AXES
from igpt_jax.model.decoder import example_inputs
from igpt_jax.parallel.mesh import make_mesh, shardings
from igpt_jax.sampling.batches import common_prefix_length, in_pairs
from igpt_jax.sampling.decode import decode
from igpt_jax.sampling.lookahead import decode_ahead
from igpt_jax.sampling.orders import ORDERS
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import rules_of
from tests.conftest import randomized

N, GRID, T = 24, (4, 4), 16


def made(**cfg):
    model = ImageGPT(ModelConfig(grid=GRID, vocab_size=7, n_layer=1, n_head=2, d_model=16, **cfg))
    params = jax.jit(model.init)(jax.random.key(0), example_inputs(model.cfg))["params"]
    return model, randomized(params, 0.5)


@pytest.fixture(scope="module")
def raster():
    return made(cond_classes=3)


@pytest.fixture(scope="module")
def any_order():
    return made(any_order=True)


def prompt(seed, share, **more):
    rng = np.random.default_rng(seed)
    return Prompt(rng.integers(0, 7, (N, T), np.int32), rng.random((N, T)) < share, **more)


def keys(seed):
    return jax.random.split(jax.random.key(seed), N)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 3, "top_p": 0.8}])
@pytest.mark.parametrize("window", [1, 4, 19])
def test_the_same_images(raster, settings, window):
    rules = rules_of(SamplerConfig(**settings))
    for seed, share in ((0, 0.0), (1, 0.3)):
        asked = prompt(seed, share, class_id=np.arange(N) % 4 - 1)
        expected = decode(*raster, asked, keys(seed), rules)
        drawn, passes = decode_ahead(*raster, asked, keys(seed), rules, 0, window)
        np.testing.assert_array_equal(drawn, expected)
        assert (passes <= T).all()
        assert (passes == T).all() if window == 1 else (passes < T).all()


@pytest.mark.parametrize("order", ["known_first", "random"])
def test_in_any_order_and_after_what_is_known(any_order, order):
    rules, asked = rules_of(SamplerConfig()), prompt(2, 0.5)
    order_BT = np.asarray(ORDERS[order](asked.known.reshape(N, *GRID), keys(2)))
    asked = asked._replace(order=order_BT)
    start = common_prefix_length(np.take_along_axis(asked.known, order_BT, axis=1))
    expected = decode(*any_order, asked, keys(2), rules, start)
    drawn, passes = decode_ahead(*any_order, asked, keys(2), rules, start, 6)
    np.testing.assert_array_equal(drawn, expected)
    assert (passes <= T - start).all()


def test_guided_pairs_stay_equal(raster):
    rules = rules_of(SamplerConfig(guidance=2.0))
    asked, pair_keys = in_pairs(prompt(3, 0.2, class_id=np.arange(N) % 3), keys(3))
    expected = decode(*raster, asked, pair_keys, rules)
    drawn, passes = decode_ahead(*raster, asked, pair_keys, rules, 0, 8)
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(passes[::2], passes[1::2])


def test_a_prefix_and_what_lies_around_a_target():
    model, params = made(prefix_slots=3, prefix_values=4, aligned_values=2)
    rng = np.random.default_rng(4)
    asked = prompt(4, 0.1, prefix=rng.normal(size=(N // 2, 3, 4)), aligned=rng.normal(size=(N, T, 2)))
    asked = jax.tree.map(jnp.asarray, asked)
    rules = rules_of(SamplerConfig())
    drawn, _ = decode_ahead(model, params, asked, keys(4), rules, 0, 5)
    np.testing.assert_array_equal(drawn, decode(model, params, asked, keys(4), rules))


def test_a_model_that_repeats_the_colour_above_takes_few_passes():
    """The first guesses are right then: after the first row, a window of one row is settled in one pass."""
    model, params = made()
    params = jax.tree.map(jnp.zeros_like, params)
    drawn, passes = decode_ahead(model, params, prompt(5, 0.0), keys(5), rules_of(SamplerConfig(temperature=0.0)), 0, 4)
    assert (drawn == 0).all()
    assert (passes == T / 4).all()  # of a constant image, every guess is correct


def test_sampler_lookahead_changes_no_image(raster):
    """Guided images in batches that are filled up, split over devices, too; and completions."""
    model, params = raster
    palette, images = Palette.levels(7), np.random.default_rng(6).integers(0, 256, (2, *GRID, 1), np.uint8)
    plain = SamplerConfig(temperature=0.9, batch_size=3, guidance=1.5)
    placed = jax.device_put(params, shardings(params, make_mesh(MeshConfig(4, 2, 1)), AXES))
    expected, *drawn = (
        sample(model, where, palette, 4, sampler=replace(plain, lookahead=ahead), classes=np.arange(4) % 3)
        for where, ahead in ((params, 0), (params, 6), (placed, 6))
    )
    np.testing.assert_array_equal(drawn, [expected, expected])
    parts = [complete(*raster, palette, images, n=2, sampler=SamplerConfig(lookahead=n), classes=1) for n in (0, 6)]
    np.testing.assert_array_equal(*parts)


def test_with_a_cache_of_int8(raster):
    model, params = raster
    model = model.clone(cache="int8")
    asked, rules = prompt(7, 0.1, class_id=np.arange(N) % 3), rules_of(SamplerConfig())
    expected = decode(model, params, asked, keys(7), rules)
    drawn, _ = decode_ahead(model, params, asked, keys(7), rules, 0, 8)
    np.testing.assert_array_equal(drawn, expected)
    assert (expected != decode(*raster, asked, keys(7), rules)).any()  # the cache does round
