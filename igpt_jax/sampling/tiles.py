"""Pictures and clips larger than the model's grid: windows that cover them, drawn one after another, and blending.

Windows overlap, so that what is drawn in one can depend on what was drawn in those before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from igpt_jax import progress

Window = tuple[slice, ...]
Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels; bottom and right are outside."""


def windows(
    size: tuple[int, int], tile: tuple[int, int], overlap: tuple[int, int], box: Box | None = None
) -> list[Window]:
    """Windows that cover a region, row by row.

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
    return [(slice(y, y + tile[0]), slice(x, x + tile[1])) for y, x in itertools.product(tops, lefts)]


def windows_over(hole: np.ndarray, tile: tuple[int, int]) -> list[Window]:
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
    around = windows((hole.shape[0], hole.shape[1]), tile, overlap, (top, left, bottom, right))
    return [window for window in around if hole[window].any()]


def sweep(
    tokens: np.ndarray,
    known: np.ndarray,
    windows: Sequence[Sequence[Window]],
    fill: Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Draws what is unknown, window after window, each from what is known in it and from what earlier ones drew.

    Args:
      tokens: int [B, n, *size]: n draws of each picture.
      known: bool [B, *size].
      windows: of each picture, its own; in each turn they have one size.
      fill: (turn, int [b] which pictures, tokens [b, n, *window], known [b, *window]) -> the tokens with all drawn.

    Returns:
      int [B, n, *size].
    """
    tokens, known, turns = tokens.copy(), known.copy(), max(map(len, windows))
    for turn in range(turns):
        if turns > 1:
            progress.report("drawing windows", turn, turns)
        here = {b: own[turn] for b, own in enumerate(windows) if turn < len(own) and not known[b][own[turn]].all()}
        if not here:
            continue
        before = np.stack([tokens[b][:, *window] for b, window in here.items()])
        seen = np.stack([known[b][window] for b, window in here.items()])
        for (b, window), drawn in zip(here.items(), fill(turn, np.array([*here]), before, seen), strict=True):
            tokens[b][:, *window], known[b][window] = drawn, True
    if turns > 1:
        progress.report("drawing windows", turns, turns)
    return tokens


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
