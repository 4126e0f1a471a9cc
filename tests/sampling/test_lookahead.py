"""Sampling with guesses gives the very images that one slot after another gives, in fewer passes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ImageGPT, InputError, ModelConfig, Palette, complete, inpaint, sample
from igpt_jax.config import MeshConfig, SamplerConfig
from igpt_jax.model import AXES
from igpt_jax.model.decoder import example_inputs
from igpt_jax.parallel.mesh import make_mesh, shardings
from igpt_jax.sampling import batches
from igpt_jax.sampling.batches import known_slots
from igpt_jax.sampling.decode import decode
from igpt_jax.sampling.guidance import in_pairs
from igpt_jax.sampling.lookahead import decode_ahead
from igpt_jax.sampling.orders import ORDERS
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules
from tests.conftest import randomized

N, GRID, T = 40, (5, 6), 30


def made(**cfg):
    model = ImageGPT(ModelConfig(grid=GRID, vocab_size=7, n_layer=2, n_head=2, d_model=16, **cfg))
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


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 3}, {"top_p": 0.8}])
@pytest.mark.parametrize("window", [1, 4, 30, 47])
def test_the_same_images(raster, settings, window):
    rules = Rules.of(SamplerConfig(**settings))
    for seed, share in ((0, 0.0), (1, 0.3)):
        asked = prompt(seed, share, class_id=np.arange(N) % 4 - 1)
        expected = decode(*raster, asked, keys(seed), rules)
        drawn, passes = decode_ahead(*raster, asked, keys(seed), rules, 0, window)
        np.testing.assert_array_equal(drawn, expected)
        assert (passes <= T).all()
        assert (passes == T).all() if window == 1 else (passes < T).all()


@pytest.mark.parametrize("order", ["known_first", "random", "outside_in"])
def test_in_any_order_and_after_what_is_known(any_order, order):
    rules, asked = Rules.of(SamplerConfig()), prompt(2, 0.5)
    order_BT = np.asarray(ORDERS[order](asked.known.reshape(N, *GRID), keys(2)))
    asked = asked._replace(order=order_BT)
    start = known_slots(np.take_along_axis(asked.known, order_BT, axis=1))
    expected = decode(*any_order, asked, keys(2), rules, start)
    drawn, passes = decode_ahead(*any_order, asked, keys(2), rules, start, 6)
    np.testing.assert_array_equal(drawn, expected)
    assert (passes <= T - start).all()


def test_guided_pairs_stay_equal(raster):
    rules = Rules.of(SamplerConfig(guidance=2.0))
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
    rules = Rules.of(SamplerConfig())
    drawn, _ = decode_ahead(model, params, asked, keys(4), rules, 0, 5)
    np.testing.assert_array_equal(drawn, decode(model, params, asked, keys(4), rules))


def test_a_model_that_repeats_the_colour_above_takes_few_passes():
    """The first guesses are right then: after the first row, a window of one row is settled in one pass."""
    model, params = made()
    params = jax.tree.map(jnp.zeros_like, params)
    drawn, passes = decode_ahead(model, params, prompt(5, 0.0), keys(5), Rules.of(SamplerConfig(temperature=0.0)), 0, 6)
    assert (drawn == 0).all()
    assert (passes == 6 - 1).all()  # of a constant image, every guess is right


@pytest.mark.parametrize("batch_size", [3, 64])
def test_sampler_lookahead_changes_no_image(raster, batch_size):
    """New images and completions, in batches that are filled up, guided ones among them, and split over devices."""
    model, params = raster
    palette, classes = Palette.levels(7), np.arange(8) % 3
    images = np.random.default_rng(6).integers(0, 256, (2, *GRID, 1), np.uint8)
    placed = jax.device_put(params, shardings(params, make_mesh(MeshConfig(4, 2, 1)), AXES))
    for guidance in (1.0, 1.5):
        plain = SamplerConfig(temperature=0.9, batch_size=batch_size, guidance=guidance)
        ahead = replace(plain, lookahead=6)
        expected = sample(model, params, palette, 8, sampler=plain, classes=classes)
        for where in (params, placed):
            drawn = sample(model, where, palette, 8, sampler=ahead, classes=classes)
            np.testing.assert_array_equal(drawn, expected)
        expected, drawn = (complete(*raster, palette, images, n=2, sampler=s, classes=1) for s in (plain, ahead))
        np.testing.assert_array_equal(drawn, expected)


def test_with_a_cache_of_int8(raster):
    model, params = raster
    model = model.clone(cache="int8")
    asked, rules = prompt(7, 0.1, class_id=np.arange(N) % 3), Rules.of(SamplerConfig())
    expected = decode(model, params, asked, keys(7), rules)
    drawn, _ = decode_ahead(model, params, asked, keys(7), rules, 0, 8)
    np.testing.assert_array_equal(drawn, expected)
    assert (expected != decode(*raster, asked, keys(7), rules)).any()  # the cache does round


def test_auto_times_each_window_and_keeps_the_fastest(raster, monkeypatch):
    """The images are the same; of ways that take 3, 1 and 2 seconds, it draws the seventh batch with the second."""
    clock, used = [0.0], []
    real = batches.decode_ahead

    def ahead(*args):
        used.append(args[-1])
        clock[0] += {8: 1.0, 32: 2.0}[args[-1]]
        return real(*args)

    def plain(*args):
        used.append(0)
        clock[0] += 3.0
        return decode(*args)

    monkeypatch.setattr(batches, "decode_ahead", ahead)
    monkeypatch.setattr(batches, "decode", plain)
    monkeypatch.setattr(batches.time, "perf_counter", lambda: clock[0])
    model, params = raster
    settings = SamplerConfig(batch_size=2, lookahead="auto")
    drawn = sample(model, params, Palette.levels(7), 16, sampler=settings, classes=1)
    assert used == [0, 0, 8, 8, 32, 32, 8, 8]
    sample(model, params, Palette.levels(7), 2, sampler=replace(settings, seed=5), classes=1)
    assert used[8:] == [8]  # the next call knows it
    expected = sample(model, params, Palette.levels(7), 16, sampler=SamplerConfig(batch_size=2), classes=1)
    np.testing.assert_array_equal(drawn, expected)


def test_methods_that_have_no_use_for_it_refuse_it(raster):
    known = np.ones((1, *GRID), bool)
    known[0, 2, 3] = False
    asked = *raster, Palette.levels(7), np.zeros((1, *GRID, 1), np.uint8), known
    for settings in ({"lookahead": 4}, {"lookahead": "auto"}):
        with pytest.raises(InputError, match=r"sampler\.lookahead: is not supported by method smc; leave it at 0"):
            inpaint(*asked, sampler=SamplerConfig(**settings))
    drawn = [inpaint(*asked, sampler=SamplerConfig(lookahead=n, method="clamp")).draws for n in (0, 4)]
    np.testing.assert_array_equal(*drawn)
