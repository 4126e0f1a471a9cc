"""How near a picture comes to another, and restorations to the clean pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from igpt_jax.evaluation.base import EvalContext, Evaluator
from igpt_jax.objectives import Figure
from igpt_jax.sampling.restore import restore

SSIM_WINDOW = 7
"""Side of the windows of `ssim_of_each`, in pixels."""


def psnr(images: np.ndarray, reconstructed: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all values of two uint8 arrays of one shape; inf when they are equal."""
    _check("psnr", images, reconstructed)
    difference = images.astype(np.int32) - reconstructed
    error = np.mean(np.square(difference), dtype=np.float64)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def psnr_of_each(images: np.ndarray, reconstructed: np.ndarray) -> np.ndarray:
    """float64 [B]: the peak signal-to-noise ratio of each image in dB, of uint8 [B, Y, X, C].

    An error below that of rounding to bytes counts as that of rounding (1/12), so equal images have 58.9 dB.
    """
    _check("psnr_of_each", images, reconstructed)
    difference = images.astype(np.float64) - reconstructed
    error_B = np.maximum(np.square(difference).mean(axis=(1, 2, 3)), 1 / 12)
    return 10 * np.log10(255**2 / error_B)


def ssim_of_each(images: np.ndarray, reconstructed: np.ndarray) -> np.ndarray:
    """float64 [B]: structural similarity (Wang et al., 2004) of uint8 images [B, Y, X, C]; 1 for equal ones.

    The mean over channels and over all 7 x 7 windows that lie in the image, which all count alike; or over smaller
    windows, where the image is smaller.
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


IMAGES = 64
"""At most this many held-out images, spread evenly: drawing takes far longer than a loss."""
DRAWS = 2
"""Draws of each image."""
SHOWN = ("degraded", "draw", "mean")


def make_restoration(context: EvalContext) -> Evaluator:
    """PSNR in dB and SSIM of the degraded image (data.degrade), of one draw and of the mean of a few.

    The clean pictures are compared as they are, not rounded to the palette; `palette_psnr` is what the palette alone
    costs, and the most that a draw can reach.
    """
    decibels, similarity = Figure("dB", "higher"), Figure("", "higher")

    def measure(params: Any, batch: Mapping[str, Any], keys_B: Any) -> dict[str, Any]:
        del keys_B  # draws have the sampler's seed
        clean, palette = batch["image"], context.palette
        degraded = context.data.degraded(clean)
        restored = restore(context.model, params, palette, degraded, DRAWS, sampler=context.cfg.sampler)
        shown = dict(zip(SHOWN, (degraded, restored.draws[:, 0], restored.mean), strict=True))
        measured = {f"{name}_psnr": psnr_of_each(clean, images) for name, images in shown.items()}
        measured["palette_psnr"] = psnr_of_each(clean, np.asarray(palette.decode(palette.encode(clean))))
        measured |= {f"{name}_ssim": ssim_of_each(clean, images) for name, images in shown.items()}
        return {name: (values, np.ones(len(values))) for name, values in measured.items()}

    figures = {f"{name}_psnr": decibels for name in (*SHOWN, "palette")}
    figures |= {f"{name}_ssim": similarity for name in SHOWN}
    return Evaluator(measure, figures, on_host=True, most=IMAGES)
