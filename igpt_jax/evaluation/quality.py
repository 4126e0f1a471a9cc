"""How near a picture comes to another."""

from __future__ import annotations

import numpy as np

SSIM_WINDOW = 7
"""Side of the windows of `ssim_of_each`, in pixels."""


def psnr(images: np.ndarray, reconstructed: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all values of two uint8 arrays of one shape; inf when they are equal.

    Raises:
      ValueError: other dtypes, or the shapes differ.
    """
    _check("psnr", images, reconstructed)
    difference = images.astype(np.int32) - reconstructed
    error = np.mean(np.square(difference), dtype=np.float64)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def psnr_of_each(images: np.ndarray, reconstructed: np.ndarray) -> np.ndarray:
    """float64 [B]: the peak signal-to-noise ratio of each image in dB.

    An error below that of rounding to bytes counts as that of rounding (1/12), so equal images have 58.9 dB.

    Args:
      images, reconstructed: uint8 [B, Y, X, C].

    Raises:
      ValueError: other dtypes, or the shapes differ.
    """
    _check("psnr_of_each", images, reconstructed)
    difference = images.astype(np.float64) - reconstructed
    error_B = np.maximum(np.square(difference).mean(axis=(1, 2, 3)), 1 / 12)
    return 10 * np.log10(255**2 / error_B)


def ssim_of_each(images: np.ndarray, reconstructed: np.ndarray) -> np.ndarray:
    """float64 [B]: the structural similarity (Wang et al., 2004) of each image, 1 for equal ones.

    The mean over channels and over all 7 x 7 windows that lie in the image, which all count alike; or over smaller
    windows, where the image is smaller.

    Args:
      images, reconstructed: uint8 [B, Y, X, C].

    Raises:
      ValueError: other dtypes, or the shapes differ.
    """
    _check("ssim_of_each", images, reconstructed)
    side = min(SSIM_WINDOW, *images.shape[1:3])
    n = side**2
    x, y = (
        np.lib.stride_tricks.sliding_window_view(a.astype(np.float64), (side, side), axis=(1, 2)).reshape(len(a), -1, n)
        for a in (images, reconstructed)
    )
    mean_x, mean_y = x.mean(axis=-1), y.mean(axis=-1)
    unbiased = n / max(1, n - 1)
    var_x, var_y = x.var(axis=-1) * unbiased, y.var(axis=-1) * unbiased
    covariance = ((x * y).mean(axis=-1) - mean_x * mean_y) * unbiased
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (alike / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean(axis=1)


def _check(name: str, images: np.ndarray, reconstructed: np.ndarray) -> None:
    if images.dtype != np.uint8 or reconstructed.dtype != np.uint8 or images.shape != reconstructed.shape:
        what = f"{images.dtype} {list(images.shape)} and {reconstructed.dtype} {list(reconstructed.shape)}"
        raise ValueError(f"{name} compares two uint8 arrays of one shape, not {what}")


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The squared Fréchet distance of the Gaussians with the means and covariances of two sets of features.

    |m - n|^2 + tr(A + B - 2 (A B)^(1/2)), as FID takes it (Heusel et al., 2017).

    Args:
      x, y: float [n, D] and [m, D], more rows than dims for a covariance of full rank.
    """
    a, b = np.cov(x.T), np.cov(y.T)
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # the eigenvalues of root b root are those of a b, and it is symmetric
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()
    return float(np.square(x.mean(axis=0) - y.mean(axis=0)).sum() + np.trace(a) + np.trace(b) - 2 * cross)
