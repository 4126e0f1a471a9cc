"""Windows of a model's grid on a larger picture, at the picture's own resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def windows_over(region: np.ndarray, grid: Sequence[int]) -> list[tuple[slice, ...]]:
    """Overlapping windows of the shape `grid` that together hold every True of `region`, row by row.

    Along each side they are spaced evenly over the bounding box of the region, with about a quarter of a window of
    surroundings on both sides where the picture has them; neighbours overlap by at least half. Windows that hold no
    True are left out.

    Args:
      region: bool [Y, X], at least as large as `grid`, with a True.
    """
    sides = []
    for axis, size in enumerate(grid):
        there = np.flatnonzero(region.any(axis=tuple(i for i in range(region.ndim) if i != axis)))
        sides.append(_starts(int(there[0]), int(there[-1]) + 1, size, region.shape[axis]))
    places = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, len(grid))
    windows = [tuple(slice(a, a + size) for a, size in zip(place.tolist(), grid, strict=True)) for place in places]
    return [window for window in windows if region[window].any()]


def _starts(first: int, end: int, size: int, length: int) -> list[int]:
    """Where windows of a size start, so that they cover first .. end - 1 on a side of some length."""
    if end - first <= size:  # one window, with the region in its middle
        return [min(max(0, (first + end - size) // 2), length - size)]
    margin = size // 4
    low, high = max(0, first - margin), min(length, end + margin) - size
    count = 1 + math.ceil((high - low) / max(1, size // 2))
    return sorted({round(low + (high - low) * i / (count - 1)) for i in range(count)})
