"""How near a picture comes to another."""

from __future__ import annotations

import numpy as np


def psnr(images: np.ndarray, reconstructed: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all values of two uint8 arrays of one shape; inf when they are equal.

    Raises:
      ValueError: other dtypes, or the shapes differ.
    """
    if images.dtype != np.uint8 or reconstructed.dtype != np.uint8 or images.shape != reconstructed.shape:
        what = f"{images.dtype} {list(images.shape)} and {reconstructed.dtype} {list(reconstructed.shape)}"
        raise ValueError(f"psnr compares two uint8 arrays of one shape, not {what}")
    difference = images.astype(np.int32) - reconstructed
    error = np.mean(np.square(difference), dtype=np.float64)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
