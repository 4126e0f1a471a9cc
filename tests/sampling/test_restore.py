"""Restorations follow the model given the damaged picture; draws share its prefix; windows agree where they overlap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ImageGPT, InputError, ModelConfig, Palette, complete, restore, sample
from igpt_jax.config import MeshConfig, SamplerConfig
from igpt_jax.model import AXES
from igpt_jax.model.decoder import example_inputs
from igpt_jax.parallel.mesh import make_mesh, shardings
from igpt_jax.sampling import restore as module
from igpt_jax.sampling.batches import decode_in_batches
from igpt_jax.sampling.decode import decode
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules, draw
from igpt_jax.sequence import conditioning, raster_inputs
from tests.conftest import randomized

PALETTE = Palette.levels(16)
RULES = Rules.of(SamplerConfig())


def made(scale=0.3, **cfg):
    model = ImageGPT(
        ModelConfig.preset("tiny", **dict(n_layer=1, prefix_slots=16, prefix_values=4, aligned_values=9) | cfg)
    )
    params = jax.jit(model.init)(jax.random.key(0), example_inputs(model.cfg))["params"]
    return model, randomized(params, scale)


@pytest.fixture(scope="module")
def restorer():
    return made()


def pictures(b, y=8, x=8):
    return np.random.default_rng(3).integers(0, 256, (b, y, x, 1), np.uint8)


def test_decoding_after_a_prefix_equals_decoding_without_a_cache(restorer):
    """A prefilled start, known pixels after it, and two prefixes for four images."""
    model, params = restorer
    picture = conditioning(model.cfg, pictures(2))
    aligned, prefix = (picture[name].repeat(n, axis=0) for name, n in (("aligned", 2), ("prefix", 1)))
    tokens = jax.random.randint(jax.random.key(5), (4, 64), 0, 16)
    known = jnp.tile(((jnp.arange(64) < 16) | (jnp.arange(64) % 7 == 3))[None], (4, 1))
    keys = jax.random.split(jax.random.key(2), 4)
    drawn = decode(model, params, Prompt(tokens, known, prefix=prefix, aligned=aligned), keys, RULES, 16)
    forward = jax.jit(lambda x: model.apply({"params": params}, x))
    slots = jnp.where(known, tokens, 0)
    for t in range(64):
        logits = forward(raster_inputs(slots)._replace(prefix=jnp.repeat(prefix, 2, axis=0), aligned=aligned))
        keys_B = jax.vmap(jax.random.fold_in)(keys, jnp.full(4, t))
        slots = slots.at[:, t].set(jnp.where(known[:, t], slots[:, t], draw(logits[:, t], keys_B, RULES)))
    np.testing.assert_array_equal(drawn, slots)


@pytest.mark.parametrize("batch_size", [3, 5, 64])
def test_sharing_a_prefix_changes_nothing(restorer, batch_size):
    """In batches that hold all images of a prefix, or several prefixes, and with a last one that is filled up."""
    model, params = restorer
    picture = conditioning(model.cfg, pictures(3))
    prefix, aligned = np.asarray(picture["prefix"]), np.asarray(picture["aligned"]).repeat(2, axis=0)
    zeros, keys = np.zeros((6, 64), np.int32), jax.random.split(jax.random.key(2), 6)
    sampler = SamplerConfig(batch_size=batch_size)
    draws = [
        decode_in_batches(model, params, Prompt(zeros, zeros > 0, prefix=p, aligned=aligned), keys, sampler)
        for p in (prefix, prefix.repeat(2, axis=0))
    ]
    np.testing.assert_array_equal(*draws)
    shared = jax.tree.map(jnp.asarray, (zeros, zeros > 0))
    whole = Prompt(*shared, prefix=jnp.asarray(prefix.repeat(2, axis=0)), aligned=jnp.asarray(aligned))
    np.testing.assert_array_equal(draws[0], decode(model, params, whole, keys, RULES))
    assert len({image.tobytes() for image in draws[0]}) == 6


def test_a_draw_depends_on_its_seed_and_picture_alone(restorer):
    model, params = restorer
    images = pictures(3)
    whole = restore(model, params, PALETTE, images, 5)
    assert whole.draws.shape == (3, 5, 8, 8, 1)
    assert whole.mean.shape == images.shape
    assert (whole.draws.dtype, whole.mean.dtype) == (np.uint8, np.uint8)
    some = restore(model, params, PALETTE, images[1:2], 5, sampler=SamplerConfig(batch_size=2))
    np.testing.assert_array_equal(some.draws, whole.draws[1:2])
    np.testing.assert_array_equal(some.mean, whole.mean[1:2])
    np.testing.assert_array_equal(restore(model, params, PALETTE, images, 2).draws, whole.draws[:, :2])
    other = restore(model, params, PALETTE, images, 2, sampler=SamplerConfig(seed=1))
    assert (other.draws != whole.draws[:, :2]).any(axis=(2, 3, 4)).all()


def test_the_damaged_picture_decides(restorer):
    """With the same keys and a temperature of 0, other pixels give another restoration."""
    model, params = restorer
    greedy = SamplerConfig(temperature=0)
    images = np.concatenate([pictures(1), 255 - pictures(1)])
    one, other = restore(model, params, PALETTE, images, 1, sampler=greedy).draws[:, 0]
    assert (one != other).any()


def test_the_mean_is_that_of_what_the_model_expects_along_the_draws(restorer):
    model, params = restorer
    images = pictures(2)
    restored = restore(model, params, PALETTE, images, 3)
    tokens = np.asarray(PALETTE.encode(restored.draws)).reshape(6, 64)
    picture = {name: values.repeat(3, axis=0) for name, values in conditioning(model.cfg, images).items()}
    logits = model.apply({"params": params}, raster_inputs(jnp.asarray(tokens))._replace(**picture))
    colors = PALETTE.decode(np.arange(16)).astype(np.float64)
    expected = np.asarray(jax.nn.softmax(logits), np.float64) @ colors
    expected = expected.reshape(2, 3, 8, 8, 1).mean(axis=1)
    assert np.abs(restored.mean - expected).max() < 0.51  # rounded to bytes
    greedy = restore(model, params, PALETTE, images, 1, sampler=SamplerConfig(temperature=0))
    np.testing.assert_array_equal(greedy.mean, greedy.draws[:, 0])


def test_the_mean_has_the_same_limit_as_that_of_the_draws():
    """On a picture of 2 x 2 pixels and three colours, over 3000 draws: within 4.5 standard errors."""
    model, params = made(scale=0.3, grid=(2, 2), vocab_size=3, prefix_slots=1)
    image, palette = pictures(1, 2, 2), Palette.levels(3)
    restored = restore(model, params, palette, image, 3000, sampler=SamplerConfig(batch_size=3000))
    draws = restored.draws[0].astype(np.float64)
    error = draws.std(axis=0) / np.sqrt(3000)
    assert draws.std(axis=0).min() > 20
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - restored.mean[0]), 4.5 * error + 0.5)


def test_windows_of_a_large_picture_agree_where_they_overlap(restorer, monkeypatch):
    model, params = restorer
    images = pictures(2, 19, 13)
    done = []

    def recorded(model, params, picture, tokens, known, keys, sampler):
        drawn = original(model, params, picture, tokens, known, keys, sampler)
        done.append((picture, tokens, known, drawn))
        return drawn

    original = module._draw
    monkeypatch.setattr(module, "_draw", recorded)
    restored = restore(model, params, PALETTE, images, 2)
    assert restored.draws.shape == (2, 2, 19, 13, 1)
    tokens = np.asarray(PALETTE.encode(restored.draws))
    places = module.windows((19, 13), (8, 8), (2, 2))
    assert len(places) == len(done) == 6
    for (top, left), (picture, before, known, drawn) in zip(places, done, strict=True):
        window = (slice(top, top + 8), slice(left, left + 8))
        # Nothing drawn is drawn again by a later window, and each sees its own part of the damaged picture.
        np.testing.assert_array_equal(tokens[:, :, *window].reshape(drawn.shape), drawn)
        np.testing.assert_array_equal(drawn[known], before[known])
        for name, values in conditioning(model.cfg, images[:, *window]).items():
            np.testing.assert_array_equal(picture[name], values)
        assert known.reshape(2, 2, 8, 8)[..., :2, :].all() == (top > 0)
    assert len({draw.tobytes() for draw in restored.draws.reshape(4, -1)}) == 4
    # The mean within one window is what that window's draws give.
    inner = module._expected(model, params, PALETTE, done[0][0], done[0][3], SamplerConfig()).reshape(2, 8, 8, 1)
    np.testing.assert_allclose(restored.mean[:, :5, :5], inner[:, :5, :5], atol=0.51)


def test_sharded_parameters_restore_alike(restorer):
    model, params = restorer
    placed = jax.device_put(params, shardings(params, make_mesh(MeshConfig(2, 2, 2)), AXES))
    a, b = (restore(model, p, PALETTE, pictures(3), 2) for p in (params, placed))
    np.testing.assert_array_equal(a.draws, b.draws)
    assert np.abs(a.mean.astype(int) - b.mean).max() <= 1


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m, p: restore(m, p, PALETTE, pictures(1, 7, 9)), "9 x 7 pixels; .* at least 8 x 8; enlarge"),
        (lambda m, p: restore(m, p, PALETTE, pictures(1)[0]), "images: uint8 .8, 8, 1."),
        (lambda m, p: restore(m, p, PALETTE, pictures(1) / 255), "float64"),
        (lambda m, p: restore(m, p, PALETTE, pictures(0)), "images"),
        (lambda m, p: restore(m, p, PALETTE, pictures(1), 0), "n: must"),
        (lambda m, p: restore(m, p, PALETTE, pictures(1), sampler=SamplerConfig(order="random")), "raster order"),
        (lambda m, p: restore(m, p, Palette.levels(17), pictures(1)), "17 colours"),
        (lambda m, p: restore(m, {}, PALETTE, pictures(1)), "params: not the parameters"),
        (lambda m, p: sample(m, p, PALETTE), "which `restore` takes"),
        (lambda m, p: complete(m, p, PALETTE, pictures(1)), "which `restore` takes"),
    ],
)
def test_bad_input_is_named(restorer, call, named):
    with pytest.raises(InputError, match=named):
        call(*restorer)


def test_a_model_without_prefix_is_refused(tiny):
    with pytest.raises(InputError, match="train one with --objective restore"):
        restore(*tiny, PALETTE, pictures(1))
