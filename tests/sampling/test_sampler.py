"""The jitted sampler draws what the model says, keeps what is known, and no image depends on its neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ImageGPT, ModelConfig, Palette, complete, sample
from igpt_jax.config import MeshConfig, SamplerConfig
from igpt_jax.model import AXES
from igpt_jax.parallel.mesh import make_mesh, shardings
from igpt_jax.sampling.batches import common_prefix_length
from igpt_jax.sampling.decode import decode, segment_ends
from igpt_jax.sampling.orders import ORDERS
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import draw, rules_of
from igpt_jax.sequence import ordered_inputs

PALETTE = Palette.levels(16)


@pytest.fixture(scope="module")
def long():
    """A context of three cache segments."""
    model = ImageGPT(ModelConfig.preset("tiny", grid=(12, 12), n_layer=1, any_order=True))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 144), jnp.int32))["params"]
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys)]
    return model, jax.tree.unflatten(structure, noisy)


@functools.partial(jax.jit, static_argnames="model")
def without_cache(model, params, tokens, known, keys, rules, order):
    """The same draw as plainly as can be: one full forward pass for every slot."""
    slots, known = (jnp.take_along_axis(x, order, axis=1) for x in (jnp.where(known, tokens, 0), known))

    def step(t, slots):
        logits = model.apply({"params": params}, ordered_inputs(slots, order))
        drawn = draw(logits[:, t], jax.vmap(jax.random.fold_in)(keys, order[:, t]), rules)
        return slots.at[:, t].set(jnp.where(known[:, t], slots[:, t], drawn))

    slots = jax.lax.fori_loop(0, model.cfg.n_ctx, step, slots)
    return jnp.take_along_axis(slots, jnp.argsort(order, axis=1), axis=1)


@pytest.mark.parametrize(("start", "order"), [(0, "raster"), (50, "raster"), (11, "known_first"), (0, "random")])
def test_equals_decoding_without_cache_and_segments(long, start, order):
    model, params = long
    assert len(segment_ends(model.cfg.n_ctx)) == 3
    tokens = jax.random.randint(jax.random.key(5), (3, 144), 0, 16)
    known = (jnp.arange(144) < start) | (jnp.arange(144) % 17 == 3)  # a prefix and scattered pixels
    known = jnp.tile(known[None], (3, 1))
    if order != "raster":
        known = known.at[1, 100:120].set(True)  # another count in one image
    keys, rules = jax.random.split(jax.random.key(2), 3), rules_of(SamplerConfig(temperature=0.9, top_k=12))
    order_BT = jnp.asarray(ORDERS[order](np.asarray(known).reshape(-1, 12, 12), keys))
    prefill = (
        start if order == "raster" else common_prefix_length(np.take_along_axis(np.asarray(known), order_BT, axis=1))
    )
    drawn = decode(model, params, Prompt(tokens, known, order_BT), keys, rules, prefill)
    np.testing.assert_array_equal(drawn, without_cache(model, params, tokens, known, keys, rules, order_BT))
    np.testing.assert_array_equal(drawn[known], tokens[known])


def test_the_key_of_a_draw_is_that_of_its_position(tiny):
    """With one colour per position as likely as any other, every order draws the same image from the same keys."""
    model = ImageGPT(ModelConfig.preset("tiny", any_order=True))
    params = jax.tree.map(jnp.zeros_like, tiny[1]) | {"wpe_source": jnp.zeros((64, 32))}
    images = [sample(model, params, PALETTE, 2, sampler=SamplerConfig(order=order)) for order in ORDERS]
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])
    assert (images[0][0] != images[0][1]).any()


def test_known_first_sees_what_comes_later(tiny):
    """The last pixel, where it is known, changes the first draw."""
    model = ImageGPT(ModelConfig.preset("tiny", any_order=True))
    params = tiny[1] | {"wpe_source": 0.1 * jax.random.normal(jax.random.key(0), (64, 32))}
    known = np.zeros((8, 8), bool)
    known[-1, -1] = True
    images = np.zeros((2, 8, 8, 1), np.uint8)
    images[1, -1, -1] = 255
    for order, differs in (("known_first", True), ("raster", False)):
        sampler = SamplerConfig(temperature=0.0, order=order)
        dark, light = complete(model, params, PALETTE, images, known, sampler=sampler)[:, 0]
        assert (dark[:-1] != light[:-1]).any() == differs


def test_an_image_is_the_same_in_any_batch(tiny):
    model, params = tiny
    whole = sample(model, params, PALETTE, 7, sampler=SamplerConfig(seed=3, batch_size=7))
    np.testing.assert_array_equal(whole, sample(model, params, PALETTE, 7, sampler=SamplerConfig(seed=3, batch_size=3)))
    np.testing.assert_array_equal(whole[:2], sample(model, params, PALETTE, 2, sampler=SamplerConfig(seed=3)))
    assert (whole != sample(model, params, PALETTE, 7, sampler=SamplerConfig(seed=4))).any()
    assert len({image.tobytes() for image in whole}) == 7


def test_a_completion_depends_on_its_prompt_alone(tiny):
    """Neither on other images, n and the batch size, nor on what is hidden."""
    model, params = tiny
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    whole = complete(model, params, PALETTE, images, n=2)
    some = complete(model, params, PALETTE, images[1:], n=3, sampler=SamplerConfig(batch_size=4))
    np.testing.assert_array_equal(whole[1:], some[:, :2])
    hidden = images.copy()
    hidden[:, 4:] = 0
    np.testing.assert_array_equal(whole, complete(model, params, PALETTE, hidden, n=2))
    twice = complete(model, params, PALETTE, np.stack([images[0], images[0]]), n=2)
    np.testing.assert_array_equal(twice[0], twice[1])
    assert (twice[0, 0] != twice[0, 1]).any()


def test_completions_keep_what_is_known_and_vary_elsewhere(tiny):
    model, params = tiny
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    quantised = np.asarray(PALETTE.decode(PALETTE.encode(images)))
    hole = np.ones((8, 8), bool)
    hole[2:5, 3:6] = False
    out = complete(model, params, PALETTE, images, hole, n=6)
    assert out.shape == (2, 6, 8, 8, 1)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out[:, :, hole], quantised[:, None, hole].repeat(6, axis=1))
    assert all(len({c[~hole].tobytes() for c in image}) > 1 for image in out)
    top = complete(model, params, PALETTE, images)  # by default the top half is known
    np.testing.assert_array_equal(top[:, 0, :4], quantised[:, :4])


def test_everything_known_is_returned(tiny):
    model, params = tiny
    images = np.asarray(PALETTE.decode(np.arange(64).reshape(1, 8, 8) % 16))
    np.testing.assert_array_equal(complete(model, params, PALETTE, images, np.ones((8, 8), bool))[:, 0], images)


def test_each_image_may_have_its_own_mask(tiny):
    model, params = tiny
    images = np.asarray(PALETTE.decode(np.random.default_rng(0).integers(0, 16, (2, 8, 8))))
    known = np.zeros((2, 8, 8), bool)
    known[0, :6], known[1, :, 5:] = True, True
    out = complete(model, params, PALETTE, images, known, n=2)
    for b in range(2):
        np.testing.assert_array_equal(out[b][:, known[b]], images[b][None, known[b]].repeat(2, axis=0))
        assert (out[b][:, ~known[b]] != images[b][None, ~known[b]]).any()


def test_sharded_parameters_draw_the_same_images(tiny):
    model, params = tiny
    mesh = make_mesh(MeshConfig(2, 2, 2))
    placed = jax.device_put(params, shardings(params, mesh, AXES))
    np.testing.assert_array_equal(sample(model, placed, PALETTE, 4), sample(model, params, PALETTE, 4))


def test_first_pixel_follows_the_model(tiny):
    """The start vector alone decides it, so its distribution is known exactly."""
    model, params = tiny
    n = 2000
    expected = jax.nn.softmax(model.apply({"params": params}, jnp.zeros((1, 64), jnp.int32))[0, 0])
    keys = jax.random.split(jax.random.key(0), n)
    known = np.arange(64) > 0  # only the first is drawn
    zeros = jnp.zeros((n, 64), jnp.int32)
    rules = rules_of(SamplerConfig())
    drawn = decode(model, params, Prompt(zeros, jnp.tile(known[None], (n, 1))), keys, rules)[:, 0]
    np.testing.assert_allclose(np.bincount(drawn, minlength=16) / n, expected, atol=0.04)


def test_the_common_prefix_is_rounded_down_to_eighths():
    known = np.zeros((2, 64), bool)
    assert common_prefix_length(known) == 0
    known[:, :31] = True
    known[1, :40] = True
    assert common_prefix_length(known) == 24
    known[:, :] = True
    assert common_prefix_length(known) == 64
