"""How near one picture is to another."""

import numpy as np
import pytest
import scipy.linalg
from skimage.metrics import structural_similarity

from igpt_jax.evaluation.quality import psnr, psnr_of_each, ssim_of_each
from tests.test_benchmarks import load


def test_psnr_in_decibels():
    a = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(a, a) == np.inf
    assert psnr(a, a + 255) == pytest.approx(0)  # squares of 255 must not overflow
    b = a.copy()
    b[0] = 16  # half the values off by 16: mean square 128
    assert psnr(a, b) == psnr(b, a) == pytest.approx(10 * np.log10(255**2 / 128))
    with pytest.raises(ValueError, match="one shape"):
        psnr(a, a[:1])


def test_psnr_of_each_image_alone():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (3, 5, 4, 3), np.uint8) for _ in range(2))
    np.testing.assert_allclose(psnr_of_each(a, b), [psnr(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(psnr_of_each(a, a), 10 * np.log10(255**2 * 12))  # finite, so that means are
    with pytest.raises(ValueError, match="one shape"):
        psnr_of_each(a, b[:1])


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_that_of_scikit_image(channels):
    rng = np.random.default_rng(0)
    a = np.cumsum(rng.integers(0, 9, (3, 12, 20, channels)), axis=2).astype(np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    expected = [structural_similarity(x, y, channel_axis=-1, data_range=255) for x, y in zip(a, b)]
    np.testing.assert_allclose(ssim_of_each(a, b), expected, atol=1e-6)
    assert ssim_of_each(a, a) == pytest.approx(1)
    assert ssim_of_each(a[:, :4], a[:, :4]) == pytest.approx(1)  # smaller than a window


def test_frechet_distance_against_the_matrix_square_root():
    frechet_distance = load("frechet").frechet_distance
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)), 2 * rng.normal(size=(300, 5)) + 1
    a, b = np.cov(x.T), np.cov(y.T)
    means = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    expected = means + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected)
    assert frechet_distance(y, x) == pytest.approx(expected)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    flat = np.concatenate([x, np.zeros((200, 1))], axis=1)  # a dim that never changes
    assert frechet_distance(flat, flat + 3) == pytest.approx(9 * 6)
