"""Clips: one window is a completion, further windows see the last frames alone, and what is known stays."""

import jax
import numpy as np
import pytest

from igpt_jax import ImageGPT, ModelConfig, Palette, complete, continue_clip, in_between, sample, sample_clips
from igpt_jax.config import SamplerConfig
from tests.conftest import randomized

PALETTE = Palette.levels(16)
F = 4
GRID = (F, 2, 2)


@pytest.fixture(scope="module")
def clip_model():
    model = ImageGPT(ModelConfig.preset("tiny", grid=GRID, n_layer=1, any_order=True))
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, model.cfg.n_ctx), np.int32))["params"]
    return model, randomized(params, 0.3)


@pytest.fixture(scope="module")
def frames():
    """Three clips of six frames, in colours of the palette."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 2, 2, 1), np.uint8)
    return np.asarray(PALETTE.decode(PALETTE.encode(pixels)))


@pytest.mark.parametrize("length", [1, 3])
def test_what_fits_into_one_window_is_a_completion(clip_model, frames, length):
    whole = np.zeros((3, *GRID, 1), np.uint8)
    whole[:, :length] = frames[:, :length]
    known = np.zeros(GRID, bool)
    known[:length] = True
    sampler = SamplerConfig(seed=2, top_k=12)
    completed = complete(*clip_model, PALETTE, whole, known, 2, sampler=sampler)
    drawn = continue_clip(*clip_model, PALETTE, frames[:, :length], F - length, 2, sampler=sampler)
    np.testing.assert_array_equal(drawn, completed)
    if length == 1:  # fewer frames are the beginning of more
        fewer = continue_clip(*clip_model, PALETTE, frames[:, :1], 1, 2, sampler=sampler)
        np.testing.assert_array_equal(fewer, drawn[:, :, :2])


def test_further_windows_begin_with_the_last_frames(clip_model, frames):
    """By hand, at temperature 0, where keys do not matter: each window is a completion of the frames kept."""
    sampler = SamplerConfig(temperature=0.0)
    for keep in (1, 3):
        drawn = continue_clip(*clip_model, PALETTE, frames[:, :2], 7, sampler=sampler, keep=keep)[:, 0]
        assert drawn.shape == (3, 9, 2, 2, 1)
        expected = continue_clip(*clip_model, PALETTE, frames[:, :2], 2, sampler=sampler)[:, 0]
        while expected.shape[1] < 9:
            window = np.zeros((3, *GRID, 1), np.uint8)
            window[:, :keep] = expected[:, -keep:]
            known = np.arange(F)[:, None, None].repeat(2, 1).repeat(2, 2) < keep
            more = complete(*clip_model, PALETTE, window, known, sampler=sampler)[:, 0, keep:]
            expected = np.concatenate([expected, more], axis=1)
        np.testing.assert_array_equal(drawn, expected[:, :9])


def test_given_frames_stay_and_only_the_last_ones_are_read(clip_model, frames):
    drawn = continue_clip(*clip_model, PALETTE, frames, 3, 2, keep=2)
    assert drawn.shape == (3, 2, 9, 2, 2, 1)
    np.testing.assert_array_equal(drawn[:, :, :6], frames[:, None].repeat(2, axis=1))
    other = frames.copy()
    other[:, :4] = 255 - other[:, :4]
    np.testing.assert_array_equal(continue_clip(*clip_model, PALETTE, other, 3, 2, keep=2)[:, :, 6:], drawn[:, :, 6:])
    other[:, 4] = 255 - other[:, 4]
    assert (continue_clip(*clip_model, PALETTE, other, 3, 2, keep=2)[:, :, 6:] != drawn[:, :, 6:]).any()
    assert (drawn[:, 0] != drawn[:, 1]).any()


def test_a_clip_depends_neither_on_others_nor_on_n(clip_model, frames):
    drawn = continue_clip(*clip_model, PALETTE, frames[:, :1], 8, 3, sampler=SamplerConfig(batch_size=4))
    np.testing.assert_array_equal(drawn[1:, :2], continue_clip(*clip_model, PALETTE, frames[1:, :1], 8, 2))


def test_windows_with_the_same_first_frames_are_drawn_anew():
    """If every window had the keys of the first, a clip whose kept frames repeat would repeat for ever."""
    model = ImageGPT(ModelConfig.preset("tiny", grid=GRID, n_layer=1))
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16), np.int32))["params"]  # every colour alike
    drawn = continue_clip(model, params, PALETTE, np.zeros((1, 1, 2, 2, 1), np.uint8), 30, keep=1)[0, 0]
    assert len({frame.tobytes() for frame in drawn[1:]}) == 30


def test_new_clips(clip_model):
    sampler = SamplerConfig(seed=4)
    drawn = sample_clips(*clip_model, PALETTE, 3, sampler=sampler)
    np.testing.assert_array_equal(drawn, sample(*clip_model, PALETTE, 3, sampler=sampler))
    longer = sample_clips(*clip_model, PALETTE, 2, 9, sampler=sampler)
    assert longer.shape == (2, 9, 2, 2, 1)
    np.testing.assert_array_equal(longer[:, :F], drawn[:2])
    np.testing.assert_array_equal(sample_clips(*clip_model, PALETTE, 2, 2, sampler=sampler), drawn[:2, :2])


def test_frames_in_between_keep_both_ends_and_see_both(clip_model, frames):
    first, last = frames[:, :1], frames[:, 4:]
    drawn = in_between(*clip_model, PALETTE, first, last, 2)
    assert drawn.shape == (3, 2, *GRID, 1)
    for j in range(2):
        np.testing.assert_array_equal(drawn[:, j, :1], first)
        np.testing.assert_array_equal(drawn[:, j, 2:], last)
    likely = SamplerConfig(temperature=0.0)
    for end in range(2):  # another colour in the corner of either end changes what is between
        ends = [first.copy(), last.copy()]
        ends[end][:, -1, -1, -1] = 255 - ends[end][:, -1, -1, -1]
        before, after = (in_between(*clip_model, PALETTE, *x, sampler=likely) for x in ((first, last), ends))
        assert (before[:, 0, 1] != after[:, 0, 1]).any()
