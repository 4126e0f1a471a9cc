"""Degradations have the strength asked for and depend on their generator alone; bad specs are named."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from igpt_jax.data.degrade import DEGRADATIONS, make_degrade, parse_spec
from tests.data.made import refused


def degraded(spec, image, seed=0):
    made = make_degrade([spec], train=True)
    assert made is not None
    return made(image, np.random.default_rng(seed))


def flat(value, size=128, channels=1):
    return np.full((size, size, channels), value, np.uint8)


@pytest.fixture
def photo():
    """Colours that change smoothly, with some noise of their own."""
    y, x = np.indices((40, 48)) / 40
    noise = np.random.default_rng(1).normal(0, 5, (40, 48, 3))
    smooth = np.stack([np.sin(6 * y), np.cos(5 * x), np.sin(4 * (x + y))], axis=-1)
    return np.clip(127 + 90 * smooth + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_every_kind_changes_pictures_by_its_generator_alone(photo, kind, channels):
    image = np.ascontiguousarray(photo[..., :channels])
    before = image.copy()
    once = degraded(kind, image, 3)
    assert (once.dtype, once.shape) == (np.uint8, image.shape)
    np.testing.assert_array_equal(once, degraded(kind, image, 3))
    np.testing.assert_array_equal(image, before)
    assert (once != image).any() == (kind != "grey" or channels == 3)
    assert (once != degraded(kind, image, 4)).any() == (kind != "grey")
    assert degraded(kind, image[:1, :1], 3).shape == (1, 1, channels)


def test_noise_has_the_deviation_asked_for_and_of_photons_grows_with_the_root_of_the_light():
    for sigma in (0.02, 0.1):
        noise = degraded(f"gaussian:{sigma}", flat(127)).astype(float) - 127
        assert noise.std() == pytest.approx(255 * sigma, rel=0.02)  # 16,384 values: 0.55 % is one standard error
        assert abs(noise.mean()) < 4 * 255 * sigma / 128
        assert np.abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.04
    for value in (25, 100, 200):
        noise = degraded("poisson:0.1", flat(value)).astype(float) - value
        assert noise.std() == pytest.approx(255 * 0.1 * np.sqrt(value / 255), rel=0.03)
    assert not degraded("poisson:0.1", flat(0)).any()


def test_salt_and_pepper_hit_the_share_asked_for():
    hit = degraded("salt_pepper:0.2", flat(100, channels=3))
    assert (hit != 100).mean() == pytest.approx(0.2, abs=0.01)
    assert (hit == 0).mean() == pytest.approx((hit == 255).mean(), abs=0.01)
    assert (np.ptp(hit, axis=-1) == 0).all()  # whole pixels


def test_blur_is_a_gaussian_of_the_deviation_asked_for(photo):
    for sigma in (0.7, 2.0):
        weights = np.exp(-np.square(np.arange(-12, 13)) / (2 * sigma**2))
        expected = np.pad(photo, ((12, 12), (12, 12), (0, 0)), "edge")
        for axis in (0, 1):
            expected = np.apply_along_axis(np.convolve, axis, expected, weights / weights.sum(), "valid")
        assert np.abs(degraded(f"blur:{sigma}", photo) - expected).max() < 0.6


def test_jpeg_is_that_of_the_quality_asked_for(photo):
    with io.BytesIO() as file:
        Image.fromarray(photo).save(file, "JPEG", quality=30)
        expected = np.asarray(Image.open(file))
    np.testing.assert_array_equal(degraded("jpeg:30", photo), expected)


def test_downsampling_leaves_the_mean_of_each_block(photo):
    small = photo.reshape(20, 2, 24, 2, 3).mean(axis=(1, 3))
    result = degraded("downsample:2", photo)
    assert np.abs(result[::2, ::2] - small).max() <= 1  # Pillow rounds after each axis
    np.testing.assert_array_equal(result, result[::2, ::2].repeat(2, axis=0).repeat(2, axis=1))
    assert len(np.unique(degraded("downsample:4", photo).reshape(-1, 3), axis=0)) <= 120
    assert degraded("downsample:3", photo).shape == photo.shape  # 40 rows are not a multiple of 3


def test_scratches_and_stains_are_as_many_as_asked_for():
    one, many = ((degraded(f"scratches:{n}", flat(127)) != 127).sum() for n in (1, 20))
    assert 60 < one < 190
    assert many > 8 * one
    stained = flat(200).astype(float) - degraded("stains:1", flat(200), seed=2)
    assert stained.min() == 0
    assert 0.001 < (stained > 5).mean() < 0.12
    assert not (degraded("stains:0", flat(200)) != 200).any()


def test_greying_takes_the_colour_and_keeps_the_brightness(photo):
    grey = degraded("grey:1", photo)
    assert (np.ptp(grey, axis=-1) == 0).all()
    np.testing.assert_allclose(grey[..., 0], photo @ [0.2126, 0.7152, 0.0722], atol=0.51)


def test_a_range_is_drawn_from_and_specs_take_turns():
    levels = [degraded("gaussian:0.02-0.1", flat(127, 64), seed).astype(float).std() / 255 for seed in range(40)]
    assert 0.019 < min(levels) < 0.035 < 0.085 < max(levels) < 0.103
    both = make_degrade(["grey", "salt_pepper:1"], train=True)
    results = [both(np.full((2, 2, 3), 9, np.uint8), np.random.default_rng(i)) for i in range(200)]
    assert 70 < sum((result == 9).all() for result in results) < 130


def test_joined_steps_follow_each_other(photo):
    rng = np.random.default_rng(5)
    rng.integers(1), rng.uniform(2, 2)  # which spec, and its first strength
    first = DEGRADATIONS["blur"].apply(photo, 2.0, rng)
    rng.uniform(0.1, 0.1)
    expected = DEGRADATIONS["gaussian"].apply(first, 0.1, rng)
    np.testing.assert_array_equal(degraded("blur:2+gaussian:0.1", photo, 5), expected)


def test_a_held_out_picture_is_always_degraded_alike(photo):
    fixed = make_degrade(["gaussian:0.1", "blur"], train=False)
    a = fixed(photo, np.random.default_rng(0))
    np.testing.assert_array_equal(a, fixed(photo, np.random.default_rng(1)))
    np.testing.assert_array_equal(a, pickle.loads(pickle.dumps(fixed))(photo, np.random.default_rng(2)))
    others = [np.roll(photo, i, axis=0) for i in range(1, 9)]
    unlike = [np.roll(fixed(x, np.random.default_rng(0)), -i, axis=0) for i, x in enumerate(others, 1)]
    assert all((x != a).any() for x in unlike)  # each has its own
    assert make_degrade([], train=False) is None


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("gausian:0.1", "no degradation 'gausian'; did you mean 'gaussian'"),
        ("", "no degradation ''"),
        ("blur:1+", "no degradation ''"),
        ("gaussian:", "gaussian takes gaussian:STRENGTH or gaussian:LOW-HIGH"),
        ("gaussian:x", "between 0 and 10 .standard deviation, where white is 1"),
        ("gaussian:-0.1", "gaussian takes"),
        ("gaussian:0.3-0.1", "gaussian takes"),
        ("gaussian:nan", "gaussian takes"),
        ("jpeg:0", "between 1 and 95"),
        ("blur:1+salt_pepper:2", "salt_pepper takes"),
    ],
)
def test_bad_specs_are_named(spec, named):
    line = refused(named, parse_spec, spec)
    assert line.startswith(f"data.degrade: {spec!r}: ")
