"""The jitted sampler draws what the model says, keeps what is known, and no image depends on its neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ImageGPT, InputError, ModelConfig, Palette, complete, sample
from igpt_jax.config import MeshConfig, SamplerConfig
from igpt_jax.model import AXES
from igpt_jax.parallel.mesh import make_mesh, shardings
from igpt_jax.sampling.sampler import known_prefix, sample_tokens, segment_ends
from igpt_jax.sampling.warp import draw

PALETTE = Palette.levels(16)


@pytest.fixture(scope="module")
def long():
    """A context of three cache segments."""
    model = ImageGPT(ModelConfig.preset("tiny", grid=(12, 12), n_layer=1))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 144), jnp.int32))["params"]
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys)]
    return model, jax.tree.unflatten(structure, noisy)


def uncached(model, params, tokens, known, keys, cfg):
    """The same draw as plainly as can be: one full forward pass for every position."""
    forward = jax.jit(lambda x: model.apply({"params": params}, x))
    tokens = jnp.where(known, tokens, 0)
    for t in range(model.cfg.n_ctx):
        drawn = draw(forward(tokens)[:, t], jax.vmap(jax.random.fold_in, (0, None))(keys, t), cfg)
        tokens = tokens.at[:, t].set(jnp.where(known[:, t], tokens[:, t], drawn))
    return tokens


@pytest.mark.parametrize("start", [0, 50])
def test_equals_decoding_without_cache_and_segments(long, start):
    model, params = long
    assert len(segment_ends(model.cfg.n_ctx)) == 3
    tokens = jax.random.randint(jax.random.key(5), (3, 144), 0, 16)
    known = (jnp.arange(144) < start) | (jnp.arange(144) % 17 == 3)  # a prefix and scattered pixels
    known = jnp.tile(known[None], (3, 1))
    keys, cfg = jax.random.split(jax.random.key(2), 3), SamplerConfig(temperature=0.9, top_k=12)
    found = sample_tokens(model, params, tokens, known, keys, cfg, start)
    np.testing.assert_array_equal(found, uncached(model, params, tokens, known, keys, cfg))
    np.testing.assert_array_equal(found[known], tokens[known])


def test_an_image_is_the_same_in_any_batch(tiny):
    model, params = tiny
    whole = sample(model, params, PALETTE, 7, seed=3, batch_size=7)
    np.testing.assert_array_equal(whole, sample(model, params, PALETTE, 7, seed=3, batch_size=3))
    np.testing.assert_array_equal(whole[:2], sample(model, params, PALETTE, 2, seed=3))
    assert (whole != sample(model, params, PALETTE, 7, seed=4)).any()
    assert len({image.tobytes() for image in whole}) == 7


def test_a_completion_is_the_same_in_any_company(tiny):
    model, params = tiny
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    whole = complete(model, params, PALETTE, images, n=3, batch_size=4)
    np.testing.assert_array_equal(whole[:2, :2], complete(model, params, PALETTE, images[:2], n=2, batch_size=64))


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
    top = complete(model, params, PALETTE, images)  # by default the top half is given
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
    drawn = sample_tokens(model, params, zeros, jnp.tile(known[None], (n, 1)), keys, SamplerConfig())[:, 0]
    np.testing.assert_allclose(np.bincount(drawn, minlength=16) / n, expected, atol=0.04)


def test_known_prefix_is_rounded_down_to_eighths():
    known = np.zeros((2, 64), bool)
    assert known_prefix(known) == 0
    known[:, :31] = True
    known[1, :40] = True
    assert known_prefix(known) == 24
    known[:, :] = True
    assert known_prefix(known) == 64


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m, p: sample(m, p, PALETTE, 0), "n: must"),
        (lambda m, p: sample(m, p, PALETTE, 1, batch_size=0), "batch_size"),
        (lambda m, p: sample(m, p, Palette.levels(17)), "17 colours"),
        (lambda m, p: sample(m, p, PALETTE, top_p=2), "top_p"),
        (lambda m, p: complete(m, p, PALETTE, np.zeros((0, 8, 8, 1), np.uint8)), "no image"),
        (lambda m, p: complete(m, p, PALETTE, np.zeros((1, 9, 8, 1), np.uint8)), r"\(1, 9, 8, 1\)"),
        (lambda m, p: complete(m, p, PALETTE, np.zeros((1, 8, 8, 1), np.float32)), "float32"),
        (lambda m, p: complete(m, p, PALETTE, np.zeros((1, 8, 8, 1), np.uint8), np.ones((8, 9), bool)), "known"),
        (lambda m, p: complete(m, p, PALETTE, np.zeros((1, 8, 8, 1), np.uint8), np.ones((8, 8))), "float64"),
    ],
)
def test_bad_input_is_named(tiny, call, named):
    with pytest.raises(InputError, match=named):
        call(*tiny)
