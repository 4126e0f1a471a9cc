"""Holes are filled from the model's own distribution of them; everything else stays as it is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ImageGPT, InputError, ModelConfig, Palette, inpaint
from igpt_jax.config import SamplerConfig
from igpt_jax.model.decoder import example_inputs
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import rules_of
from igpt_jax.sampling.smc import effective, smc, systematic
from igpt_jax.sampling.tiles import windows_over
from igpt_jax.sampling.unmask import unmask
from igpt_jax.sequence import masked_inputs
from tests.conftest import randomized
from tests.sampling.toy import IMAGES, PALETTE, chi_square, conditional, log_p, toy

IMAGE, HOLE = np.array([2, 0, 1, 2]), np.array([True, False, True, False])
DRAWS = 2000
PLAIN = rules_of(SamplerConfig())


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
    draws = smc_draws(model, params, np.stack([IMAGE, other]), particles=128, n=DRAWS)
    for image, independent in zip((IMAGE, other), draws):
        value, bound = chi_square(
            independent, conditional(np.exp(log_p(model, params, np.arange(4)[None])), image, HOLE)
        )
        assert value < bound
    value, bound = chi_square(drawn(model, params, method="clamp", batch_size=DRAWS), p)
    assert value > 3 * bound
    together = drawn(model, params, 256, method="smc", particles=1024, batch_size=1)  # the draws of one call agree, too
    shares = np.bincount(together @ 3 ** np.arange(4)[::-1], minlength=81) / 256
    assert abs(shares - p).sum() / 2 < 0.08


def smc_draws(model, params, images, particles, n):
    """[B, n, 4]: n runs for each image, one draw each, each with particles of its own."""
    prompt = Prompt(images.repeat(n, axis=0), np.tile(~HOLE, (len(images) * n, 1)))
    keys = jax.random.split(jax.random.key(3), len(images) * n)
    return np.asarray(smc(model, params, prompt, keys, PLAIN, particles, 1)[0]).reshape(len(images), n, 4)


@pytest.mark.parametrize("start", [0, 1])
def test_particles_estimate_the_probability_of_what_is_known(start):
    """Without bias, even with few of them; of what is known from `start` on."""
    model, params = toy()
    hole = HOLE if start == 0 else np.array([False, True, True, False])
    p = np.exp(np.asarray(log_p(model, params, np.arange(4)[None]), np.float64))
    exact = p[(IMAGES[:, ~hole] == IMAGE[~hole]).all(axis=1)].sum()
    prompt = Prompt(np.tile(IMAGE, (2500, 1)), np.tile(~hole, (2500, 1)))
    keys = jax.random.split(jax.random.key(4), 2500)
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
    rules = rules_of(SamplerConfig(temperature=0.0))
    filled = unmask(model, params, prompt, jax.random.split(jax.random.key(0), 81), rules, 2, by_confidence=True)
    np.testing.assert_array_equal(filled, two_passes(surest_first=True))
    assert (two_passes(surest_first=True) != two_passes(surest_first=False)).any()


LEVELS = Palette.levels(16)


def made(**cfg):
    model = ImageGPT(ModelConfig(grid=(4, 4), vocab_size=16, n_layer=1, n_head=2, d_model=16, **cfg))
    return model, randomized(jax.jit(model.init)(jax.random.key(0), example_inputs(model.cfg))["params"], 0.4)


@pytest.fixture(scope="module")
def small():
    return made(any_order=True)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 11, 9, 1), np.uint8)


def test_a_large_picture_changes_in_its_hole_alone(small, pictures):
    known = np.ones((2, 11, 9), bool)
    known[0, 3:5, 3:5] = known[1, 5:10, 4] = False
    out = inpaint(*small, LEVELS, pictures, known, 3)
    assert out.draws.shape == (2, 3, 11, 9, 1)
    for draw in (*out.draws.swapaxes(0, 1), out.mean):
        np.testing.assert_array_equal(draw[known], pictures[known])
    assert np.isin(out.draws[:, :, ~known[0]][0], LEVELS.decode(np.arange(16))).all()
    assert (out.deviation[known] == 0).all()
    assert (out.deviation[~known] > 0).mean() > 0.5
    np.testing.assert_allclose(out.mean[..., 0], out.draws[..., 0].mean(axis=1), atol=0.5)
    np.testing.assert_array_equal(inpaint(*small, LEVELS, pictures[:1], known[:1], 2).draws[0], out.draws[0, :2])


@pytest.mark.parametrize("method", ["clamp", "smc", "unmask"])
def test_the_holes_of_other_pictures_change_nothing(small, pictures, method):
    model = small if method != "unmask" else made(causal=False)
    known = np.ones((2, 8, 8), bool)
    known[0, 3:6, 3:7] = known[1, 0:4, 0:4] = False
    settings = SamplerConfig(method=method, particles=4, passes=16)
    both = inpaint(*model, LEVELS, pictures[:, :8, :8], known, 2, sampler=settings).draws
    alone = inpaint(*model, LEVELS, pictures[:1, :8, :8], known[:1], 2, sampler=settings).draws
    np.testing.assert_array_equal(alone[0], both[0])


def test_a_later_window_keeps_what_an_earlier_one_drew_and_reads_it(small, pictures):
    """With the most likely colours, the first window alone gives the same as in the whole picture."""
    model, params = small
    known = np.ones((11, 9), bool)
    known[2:8, 1:8] = False
    whole = inpaint(model, params, LEVELS, pictures[:1], known, 1, sampler=SamplerConfig(temperature=0.0))
    canvas, left = pictures[:1].copy(), known.copy()
    for y, x in windows_over(~known, (4, 4)):
        if left[y, x].all():
            continue
        part = inpaint(model, params, LEVELS, canvas[:, y, x], left[y, x], 1, sampler=SamplerConfig(temperature=0.0))
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


def test_an_order_of_ones_own_that_is_no_permutation_is_named(small, monkeypatch):
    from igpt_jax.sampling.orders import ORDERS

    monkeypatch.setitem(ORDERS, "twice", lambda known, keys: np.zeros((len(known), 16), int))
    images, known = np.zeros((1, 4, 4, 1), np.uint8), np.ones((4, 4), bool)
    known[1, 1] = False
    with pytest.raises(InputError, match=r"sampler\.order twice: must hold every position from 0 to 15 once"):
        inpaint(*small, LEVELS, images, known, sampler=SamplerConfig(order="twice"))
