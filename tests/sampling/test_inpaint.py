"""Holes are filled from the model's own distribution of them; everything else stays as it is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ImageGPT, InputError, ModelConfig, Palette, inpaint
from igpt_jax.config import SamplerConfig
from igpt_jax.sampling.inpaint import METHODS, pick_method
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules
from igpt_jax.sampling.smc import effective, smc, systematic
from igpt_jax.sampling.tiles import windows_over
from igpt_jax.sampling.unmask import unmask
from igpt_jax.sequence import masked_inputs
from tests.conftest import randomized
from tests.sampling.toy import IMAGES, PALETTE, chi_square, conditional, log_p, toy

IMAGE, HOLE = np.array([2, 0, 1, 2]), np.array([True, False, True, False])
DRAWS = 4000
PLAIN = Rules.of(SamplerConfig())


def drawn(model, params, n=DRAWS, **settings):
    """Token images [n, 4] that agree with IMAGE outside HOLE."""
    images = PALETTE.decode(IMAGE.reshape(1, 2, 2))
    filled = inpaint(model, params, PALETTE, images, ~HOLE.reshape(2, 2), n, sampler=SamplerConfig(**settings))
    return np.asarray(PALETTE.encode(filled.draws)).reshape(n, 4)


@pytest.mark.parametrize("order", ["known_first", "random"])
def test_an_any_order_model_draws_the_hole_given_all_that_is_known(order):
    model, params = toy(any_order=True)
    orders = np.array([[1, 3, 0, 2], [1, 3, 2, 0]] if order == "random" else [[1, 3, 0, 2]])
    p = np.mean([conditional(np.exp(log_p(model, params, o[None])), IMAGE, HOLE) for o in orders], axis=0)
    value, bound = chi_square(drawn(model, params, order=order, batch_size=DRAWS), p)
    assert value < bound


def test_particles_draw_the_hole_given_what_comes_after_it_and_clamping_does_not():
    model, params = toy()
    p = conditional(np.exp(log_p(model, params, np.arange(4)[None])), IMAGE, HOLE)
    other = np.array([0, 1, 0, 0])  # another picture in the same batch
    draws = smc_draws(model, params, np.stack([IMAGE, other]), particles=256, n=DRAWS)
    for image, independent in zip((IMAGE, other), draws):
        value, bound = chi_square(
            independent, conditional(np.exp(log_p(model, params, np.arange(4)[None])), image, HOLE)
        )
        assert value < bound
    value, bound = chi_square(drawn(model, params, method="clamp", batch_size=DRAWS), p)
    assert value > 3 * bound
    together = drawn(model, params, 512, method="smc", particles=2048, batch_size=1)  # the draws of one call agree, too
    shares = np.bincount(together @ 3 ** np.arange(4)[::-1], minlength=81) / 512
    assert abs(shares - p).sum() / 2 < 0.08


def smc_draws(model, params, images, particles, n):
    """[B, n, 4]: n runs for each image, one draw each, each with particles of its own."""
    prompt = Prompt(images.repeat(n, axis=0), np.tile(~HOLE, (len(images) * n, 1)))
    keys = jax.random.split(jax.random.key(3), len(images) * n)
    return np.asarray(smc(model, params, prompt, keys, PLAIN, particles, 1)[0]).reshape(len(images), n, 4)


@pytest.mark.parametrize("start", [0, 1])
def test_particles_estimate_the_probability_of_what_is_known(start):
    """Without bias, even with few of them."""
    model, params = toy()
    hole = HOLE if start == 0 else np.array([False, True, True, False])
    p = np.exp(np.asarray(log_p(model, params, np.arange(4)[None]), np.float64))
    exact = p[(IMAGES[:, ~hole] == IMAGE[~hole]).all(axis=1)].sum()
    prompt = Prompt(np.tile(IMAGE, (5000, 1)), np.tile(~hole, (5000, 1)))
    keys = jax.random.split(jax.random.key(4), 5000)
    estimates = np.exp(np.asarray(smc(model, params, prompt, keys, PLAIN, 4, 1, start)[1], np.float64))
    if start:
        estimates *= p_of_first(model, params)
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - exact) < 4 * error
    assert error < 0.05 * exact


def p_of_first(model, params):
    p = np.exp(np.asarray(log_p(model, params, np.arange(4)[None]), np.float64))
    return p[IMAGES[:, 0] == IMAGE[0]].sum()


def test_resampling_takes_each_particle_as_often_as_its_share():
    shares = np.array([[0.5, 0.25, 0.125, 0.125], [1.0, 0.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        log_weight = jnp.asarray(np.log(shares) + 7)
    np.testing.assert_allclose(effective(log_weight), [1 / (np.square(shares[0]).sum()), 1.0], rtol=1e-5)
    chosen = systematic(log_weight, jax.random.split(jax.random.key(0), 2), 8)
    assert np.bincount(chosen[0], minlength=4).tolist() == [4, 2, 1, 1]
    assert (chosen[1] == 0).all()


def test_a_bert_model_draws_in_an_order_pixel_by_pixel():
    """In the order 0, 2: p(x0 | known) p(x2 | x0, known)."""
    model, params = toy(causal=False)
    seen = np.tile(~HOLE, (81, 1))
    both = (seen, seen | (np.arange(4) == 0)[None])
    logits = [model.apply({"params": params}, masked_inputs(IMAGES, visible)) for visible in both]
    logs = [np.asarray(jax.nn.log_softmax(x)) for x in logits]
    rows = np.arange(81)
    p = conditional(np.exp(logs[0][rows, 0, IMAGES[:, 0]] + logs[1][rows, 2, IMAGES[:, 2]]), IMAGE, HOLE)
    value, bound = chi_square(drawn(model, params, order="known_first", batch_size=DRAWS), p)
    assert value < bound
    at_once = conditional(np.exp(logs[0][rows, 0, IMAGES[:, 0]] + logs[0][rows, 2, IMAGES[:, 2]]), IMAGE, HOLE)
    value, bound = chi_square(drawn(model, params, order="known_first", passes=1, batch_size=DRAWS), at_once)
    assert value < bound


def test_iterative_unmasking_fills_everything_and_the_surest_first():
    model, params = toy(causal=False)

    def most_likely(images, visible):
        """Of each pixel, and its probability."""
        probs = jax.nn.softmax(model.apply({"params": params}, masked_inputs(images, visible)))
        return np.asarray(probs.argmax(axis=-1)), np.asarray(probs.max(axis=-1))

    def two_passes(surest_first):
        colors, probability = most_likely(IMAGES, np.tile(~HOLE, (81, 1)))
        first = np.where((probability[:, 0] > probability[:, 2]) == surest_first, 0, 2)
        filled, rows = np.where(HOLE, colors, IMAGES), np.arange(81)
        after, _ = most_likely(filled, ~HOLE | (np.arange(4) == first[:, None]))
        filled[rows, 2 - first] = after[rows, 2 - first]
        return filled

    prompt = Prompt(IMAGES, np.tile(~HOLE, (81, 1)), np.tile([1, 3, 0, 2], (81, 1)))
    rules = Rules.of(SamplerConfig(temperature=0.0))
    filled = unmask(model, params, prompt, jax.random.split(jax.random.key(0), 81), rules, 2, by_confidence=True)
    np.testing.assert_array_equal(filled, two_passes(surest_first=True))
    assert (two_passes(surest_first=True) != two_passes(surest_first=False)).any()


@pytest.fixture(scope="module")
def small():
    model = ImageGPT(ModelConfig(grid=(4, 4), vocab_size=16, n_layer=1, n_head=2, d_model=16, any_order=True))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16), jnp.int32))["params"]
    return model, randomized(params, 0.4)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 11, 9, 1), np.uint8)


@pytest.mark.parametrize("method", ["any_order", "smc", "clamp"])
def test_a_large_picture_changes_in_its_hole_alone(small, pictures, method):
    model, params = small
    known = np.ones((2, 11, 9), bool)
    known[0, 2:8, 1:9] = False
    known[1, 9:, 4] = False
    palette = Palette.levels(16)
    out = inpaint(model, params, palette, pictures, known, 3, sampler=SamplerConfig(method=method, particles=4))
    assert out.draws.shape == (2, 3, 11, 9, 1)
    for draw in (*out.draws.swapaxes(0, 1), out.mean):
        np.testing.assert_array_equal(draw[known], pictures[known])
    assert np.isin(out.draws[:, :, ~known[0]][0], palette.decode(np.arange(16))).all()
    assert (out.deviation[known] == 0).all()
    assert (out.deviation[~known] > 0).mean() > 0.5
    np.testing.assert_allclose(out.mean[..., 0], out.draws[..., 0].mean(axis=1), atol=0.5)
    again = inpaint(
        model, params, palette, pictures[:1], known[:1], 2, sampler=SamplerConfig(method=method, particles=4)
    )
    if method != "smc":  # whose draws depend on each other
        np.testing.assert_array_equal(again.draws[0], out.draws[0, :2])


def test_a_later_window_keeps_what_an_earlier_one_drew_and_reads_it(small, pictures):
    """With the most likely colours, the first window alone gives the same as in the whole picture."""
    model, params = small
    known = np.ones((11, 9), bool)
    known[2:8, 1:8] = False
    whole = inpaint(model, params, Palette.levels(16), pictures[:1], known, 1, sampler=SamplerConfig(temperature=0.0))
    canvas, left = pictures[:1].copy(), known.copy()
    for y, x in windows_over(~known, (4, 4)):
        if left[y, x].all():
            continue
        part = inpaint(
            model, params, Palette.levels(16), canvas[:, y, x], left[y, x], 1, sampler=SamplerConfig(temperature=0.0)
        )
        canvas[:, y, x], left[y, x] = part.draws[:, 0], True
    np.testing.assert_array_equal(whole.draws[:, 0], canvas)


@pytest.mark.parametrize("shape", [(11, 9), (4, 4), (40, 4)])
def test_windows_cover_the_hole_and_overlap(shape):
    rng = np.random.default_rng(0)
    for _ in range(20):
        hole = np.zeros(shape, bool)
        y, x = (np.sort(rng.integers(0, n, 2)) for n in shape)
        hole[y[0] : y[1] + 1, x[0] : x[1] + 1] = True
        windows, covered = windows_over(hole, (4, 4)), np.zeros(shape, bool)
        for window in windows:
            assert covered[window].shape == (4, 4)
            covered[window] = True
        assert covered[hole].all()
        tops = sorted({window[0].start for window in windows})
        assert all(b - a <= 2 for a, b in itertools.pairwise(tops))


@pytest.mark.parametrize(
    ("cfg", "expected"), [({"any_order": True}, "any_order"), ({}, "smc"), ({"causal": False}, "ardm")]
)
def test_auto_takes_the_best_that_a_model_can_do(cfg, expected):
    model, params = toy(**cfg)
    assert pick_method(model.cfg, "auto") == expected
    for method in METHODS:
        if METHODS[method].refusal(model.cfg) is not None:
            with pytest.raises(InputError, match=f"sampler.method: {method} needs .*; this model can do {expected}"):
                drawn(model, params, 1, method=method)
    with pytest.raises(InputError, match="no method 'smd'; did you mean 'smc'"):
        pick_method(model.cfg, "smd")


KNOWN = np.ones((4, 4), bool)
KNOWN[1, 1] = False


@pytest.mark.parametrize(
    ("images", "known", "reason"),
    [
        (
            np.zeros((1, 4, 4, 3), np.uint8),
            KNOWN,
            r"images: uint8 \(1, 4, 4, 3\); the model inpaints uint8 \[B, Y, X, 1\]",
        ),
        (np.zeros((1, 3, 9, 1), np.uint8), KNOWN, "9 x 3 pixels; the model works on 4 x 4 pixels or more"),
        (np.zeros((1, 4, 4, 1), np.uint8), KNOWN[:3], "a mask is bool"),
        (np.zeros((1, 4, 4, 1), np.uint8), KNOWN.astype(int), "a mask is bool"),
        (np.zeros((1, 4, 4, 1), np.uint8), np.ones((4, 4), bool), "the mask of picture 0 has no unknown pixel"),
        (np.zeros((1, 4, 4, 1), np.uint8), np.zeros((4, 4), bool), "the mask of picture 0 has no known pixel"),
    ],
)
def test_what_cannot_be_inpainted_is_named(small, images, known, reason):
    with pytest.raises(InputError, match=reason):
        inpaint(*small, Palette.levels(16), images, known)


def test_an_order_of_ones_own_that_is_no_permutation_is_named(small, monkeypatch):
    from igpt_jax.sampling.orders import ORDERS

    monkeypatch.setitem(ORDERS, "twice", lambda known, keys: np.zeros((len(known), 16), int))
    images = np.zeros((1, 4, 4, 1), np.uint8)
    with pytest.raises(InputError, match=r"sampler\.order twice: an order holds every position from 0 to 15 once"):
        inpaint(*small, Palette.levels(16), images, KNOWN, sampler=SamplerConfig(order="twice"))


def test_a_large_picture_is_filled_alone_as_in_company(tiny):
    """Windows are laid over each picture's own hole: that of another one changes nothing."""
    model, params = tiny
    images = np.random.default_rng(3).integers(0, 256, (2, 12, 12, 1), np.uint8)
    known = np.ones((2, 12, 12), bool)
    known[0, 4:6, 5:7] = False
    known[1, :3, :3] = known[1, 9:, 9:] = False  # two windows
    sampler = SamplerConfig(method="clamp", seed=2)
    together = inpaint(model, params, Palette.levels(16), images, known, 2, sampler=sampler).draws
    for i in range(2):
        alone = inpaint(
            model, params, Palette.levels(16), images[i : i + 1], known[i : i + 1], 2, sampler=sampler
        ).draws
        np.testing.assert_array_equal(together[i], alone[0])
