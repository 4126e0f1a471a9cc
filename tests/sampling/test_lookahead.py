"""Sampling with guesses gives the very images that one slot after another gives, in fewer passes."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ImageGPT, ModelConfig, Palette, complete, sample
from igpt_jax.config import MeshConfig, SamplerConfig
from igpt_jax.model import AXES
from igpt_jax.model.inputs import example_inputs
from igpt_jax.parallel.mesh import make_mesh, shardings
from igpt_jax.sampling.batches import common_prefix_length, in_pairs
from igpt_jax.sampling.decode import decode, segment_ends
from igpt_jax.sampling.draft import draft_loss, fit_draft, init_draft, load_draft, save_draft
from igpt_jax.sampling.lookahead import decode_ahead, window_for
from igpt_jax.sampling.orders import ORDERS
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import rules_of
from igpt_jax.sequence import Example, raster_inputs
from tests.conftest import randomized

N, GRID, T = 24, (4, 4), 16


def made(**cfg):
    model = ImageGPT(ModelConfig(**{"grid": GRID, "vocab_size": 7, "n_layer": 1, "n_head": 2, "d_model": 16} | cfg))
    params = jax.jit(model.init)(jax.random.key(0), example_inputs(model.cfg))["params"]
    return model, randomized(params, 0.5)


def some_draft(cfg):
    """A network that knows nothing of the model."""
    return randomized(init_draft(cfg, jax.random.key(1)), 0.5)


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


def ahead(model, params, asked, image_keys, rules, start=0, window=4, network=True):
    return decode_ahead(
        model, params, asked, image_keys, rules, start, window, some_draft(model.cfg) if network else None, True
    )


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 3, "top_p": 0.8}])
@pytest.mark.parametrize("window", [1, 4, 19])
def test_the_same_images(raster, settings, window):
    rules = rules_of(SamplerConfig(**settings))
    for seed, share in ((0, 0.0), (1, 0.3)):
        asked = prompt(seed, share, class_id=np.arange(N) % 4 - 1)
        expected = decode(*raster, asked, keys(seed), rules)
        drawn, passes = ahead(*raster, asked, keys(seed), rules, 0, window)
        np.testing.assert_array_equal(drawn, expected)
        assert (passes <= T).all()
        assert (passes == T).all() if window == 1 else (passes < T).any()


@pytest.mark.parametrize("order", ["known_first", "random"])
def test_in_any_order_and_after_what_is_known(any_order, order):
    rules, asked = rules_of(SamplerConfig()), prompt(2, 0.5)
    order_BT = np.asarray(ORDERS[order](asked.known.reshape(N, *GRID), keys(2)))
    asked = asked._replace(order=order_BT)
    start = common_prefix_length(np.take_along_axis(asked.known, order_BT, axis=1))
    expected = decode(*any_order, asked, keys(2), rules, start)
    drawn, passes = ahead(*any_order, asked, keys(2), rules, start, 6)
    np.testing.assert_array_equal(drawn, expected)
    assert (passes <= T - start).all()


def test_guided_pairs_stay_equal(raster):
    """Also where finished pairs leave the batch."""
    rules = rules_of(SamplerConfig(guidance=2.0))
    asked, pair_keys = in_pairs(prompt(3, 0.2, class_id=np.arange(N) % 3), keys(3))
    expected = decode(*raster, asked, pair_keys, rules)
    drawn, passes = decode_ahead(*raster, asked, pair_keys, rules, 0, 8)
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(passes[::2], passes[1::2])


@pytest.mark.parametrize("conditioning", [{"prefix_slots": 4, "prefix_values": 4}, {"aligned_values": 2}])
def test_a_prefix_and_what_lies_around_a_target(conditioning):
    model, params = made(**conditioning)
    rng = np.random.default_rng(4)
    asked = prompt(4, 0.1)
    if model.cfg.prefix_slots:
        asked = asked._replace(prefix=rng.normal(size=(N // 2, 4, 4)))
    else:
        asked = asked._replace(aligned=rng.normal(size=(N, T, 2)))
    asked, rules = jax.tree.map(jnp.asarray, asked), rules_of(SamplerConfig())
    drawn, _ = ahead(model, params, asked, keys(4), rules, 0, 5)
    np.testing.assert_array_equal(drawn, decode(model, params, asked, keys(4), rules))


def test_a_long_clip_with_a_cache_that_grows():
    """Images are at different slots when it does, and leave the batch at different times."""
    model, params = made(grid=(4, 8, 6))
    t, n = model.cfg.n_ctx, 5
    assert len(segment_ends(t)) > 2
    asked = Prompt(
        np.zeros((n, t), np.int32), np.random.default_rng(8).random((n, t)) < np.linspace(0, 0.9, n)[:, None]
    )
    rules, image_keys = rules_of(SamplerConfig()), jax.random.split(jax.random.key(8), n)
    expected = decode(model, params, asked, image_keys, rules)
    drawn, passes = decode_ahead(model, params, asked, image_keys, rules, 0, 7, some_draft(model.cfg))
    np.testing.assert_array_equal(drawn, expected)
    assert len(set(passes.tolist())) > 2


def test_a_model_that_repeats_the_colour_above_takes_few_passes():
    """All guesses are right then: a window is settled in one pass."""
    model, params = made()
    params, rules = jax.tree.map(jnp.zeros_like, params), rules_of(SamplerConfig(temperature=0.0))
    drawn, passes = ahead(model, params, prompt(5, 0.0), keys(5), rules, 0, 4, network=False)
    assert (drawn == 0).all()
    assert (passes == T / 4).all()  # of a constant image, every guess is correct


def test_sampler_lookahead_changes_no_image(raster):
    """Guided images in batches that are filled up, split over devices, too; and completions."""
    model, params = raster
    palette, images = Palette.levels(7), np.random.default_rng(6).integers(0, 256, (2, *GRID, 1), np.uint8)
    plain, draft = SamplerConfig(temperature=0.9, batch_size=3, guidance=1.5, lookahead=0), some_draft(model.cfg)
    placed = jax.device_put(params, shardings(params, make_mesh(MeshConfig(4, 2, 1)), AXES))
    expected, *drawn = (
        sample(model, p, palette, 4, sampler=replace(plain, lookahead=window), classes=np.arange(4) % 3, draft=draft)
        for p, window in ((params, 0), (params, 6), (placed, 6))
    )
    np.testing.assert_array_equal(drawn, [expected, expected])
    parts = [complete(*raster, palette, images, n=2, sampler=SamplerConfig(lookahead=n), classes=1) for n in (0, 6)]
    np.testing.assert_array_equal(*parts)


def test_with_a_cache_of_int8(raster):
    model, params = raster
    model = model.clone(cache="int8")
    asked, rules = prompt(7, 0.1, class_id=np.arange(N) % 3), rules_of(SamplerConfig())
    expected = decode(model, params, asked, keys(7), rules)
    drawn, _ = ahead(model, params, asked, keys(7), rules, 0, 8)
    np.testing.assert_array_equal(drawn, expected)
    assert (expected != decode(*raster, asked, keys(7), rules)).any()  # the cache does round


def test_auto_takes_windows_where_they_pay():
    assert window_for(3, "cpu", 8, 64) == 3
    assert window_for("auto", "cpu", 1, 1024) > window_for("auto", "cpu", 8, 1024) > 0
    assert window_for("auto", "cpu", 8, 256) == 0
    assert all(window_for("auto", name, n, 64) > 1 for name, n in itertools.product(("gpu", "tpu"), (1, 16)))


@pytest.fixture(scope="module")
def learned():
    """Of pictures whose pixels are one more than the pixel to the left; rows begin with the class."""
    cfg = ModelConfig(grid=GRID, vocab_size=7, n_layer=1, n_head=2, d_model=16, cond_classes=3)

    def example(batch, keys_B):
        tokens_BT = (batch["label"][:, None] + jnp.arange(T)[None] % 4) % 7
        return Example(raster_inputs(tokens_BT, batch["label"]), tokens_BT, jnp.ones(tokens_BT.shape))

    batch = {"image": jnp.zeros((6, *GRID, 1), jnp.uint8), "label": jnp.arange(6) % 3}
    return cfg, fit_draft(cfg, example, itertools.repeat(batch), 30), example(batch, None)


def test_the_network_learns_neighbours_and_classes(learned):
    cfg, draft, example = learned
    every = jnp.broadcast_to(jnp.arange(T), (6, T))
    loss = jax.jit(draft_loss, static_argnums=0)
    assert loss(cfg, draft, example, every) < 0.1
    later = example._replace(labels=example.labels.at[:, 5].set(0))
    changed = [loss(cfg, draft, later, every[:, i : i + 1]) for i in range(T)]
    unchanged = [loss(cfg, draft, example, every[:, i : i + 1]) for i in range(T)]
    assert changed[:5] == unchanged[:5]  # what comes later is not read
    assert changed[6] != unchanged[6]


def test_the_network_is_read_back(learned, tmp_path, caplog):
    cfg, draft, _ = learned
    assert load_draft(tmp_path, cfg) is None
    save_draft(draft, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, load_draft(tmp_path, cfg), draft)
    assert load_draft(tmp_path, replace(cfg, vocab_size=8)) is None
    assert "of another model" in caplog.text
    (tmp_path / "draft.npz").write_bytes((tmp_path / "draft.npz").read_bytes()[:1000])
    assert load_draft(tmp_path, cfg) is None
    assert "cannot be read" in caplog.text
