"""Pictures larger than the model's grid: windows of that size which cover them, and how results are blended.

Windows overlap, so that what is drawn in one can depend on what was drawn in those before it.
"""

from __future__ import annotations

import itertools

import numpy as np

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels; bottom and right are outside."""


def windows(
    size: tuple[int, int], tile: tuple[int, int], overlap: tuple[int, int], box: Box | None = None
) -> list[tuple[int, int]]:
    """The top left corners of windows that cover a region, row by row.

    They are evenly spaced, as few as possible, and neighbours overlap by at least `overlap` pixels.

    Args:
      size: rows and columns of the picture, not below those of `tile`.
      tile: rows and columns of a window.
      overlap: rows and columns, below those of `tile`.
      box: the region, None for the whole picture. One smaller than a window lies in the middle of it, as far as the
        picture allows.
    """
    box = box or (0, 0, *size)
    tops, lefts = (_starts(size[i], tile[i], overlap[i], box[i], box[i + 2]) for i in range(2))
    return list(itertools.product(tops, lefts))


def windows_over(hole: np.ndarray, tile: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Windows that together hold every True of `hole` [y, x], row by row; those that hold none are left out.

    Neighbours overlap by at least half. A hole smaller than a window lies in its middle; a larger one has about a
    quarter of a window of surroundings on each side, as far as the picture allows.
    """
    edges = []
    for axis in range(2):
        there, length = np.flatnonzero(hole.any(axis=1 - axis)), hole.shape[axis]
        low, high = int(there[0]), int(there[-1]) + 1
        margin = tile[axis] // 4 if high - low > tile[axis] else 0
        edges.append((max(0, low - margin), min(length, high + margin)))
    (top, bottom), (left, right) = edges
    overlap = (tile[0] - max(1, tile[0] // 2), tile[1] - max(1, tile[1] // 2))
    corners = windows((hole.shape[0], hole.shape[1]), tile, overlap, (top, left, bottom, right))
    all_windows = [(slice(y, y + tile[0]), slice(x, x + tile[1])) for y, x in corners]
    return [window for window in all_windows if hole[window].any()]


def _starts(size: int, tile: int, overlap: int, low: int, high: int) -> list[int]:
    """Where windows begin along one axis."""
    span = max(high - low, tile)
    first = int(np.clip((low + high - span) // 2, 0, size - span))
    count = max(1, -(-(span - overlap) // (tile - overlap)))
    return [first + round(i * (span - tile) / max(1, count - 1)) for i in range(count)]


def blend_weights(tile: tuple[int, int], overlap: tuple[int, int]) -> np.ndarray:
    """float32 [Y, X]: what each pixel of a window counts where windows overlap.

    1 in the middle; towards each edge it falls over `overlap` pixels, but not to 0.
    """
    ramps = []
    for n, width in zip(tile, overlap, strict=True):
        distance = np.minimum(np.arange(n), np.arange(n)[::-1]) + 1
        ramps.append(np.minimum(distance / (width + 1), 1))
    return (ramps[0][:, None] * ramps[1][None]).astype(np.float32)
