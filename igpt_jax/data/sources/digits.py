"""`digits`: scikit-learn's 1797 handwritten digits of 8 x 8 pixels. The last 297 are held out.

`moving_digits` or `moving_digits:ROWSxCOLUMNS`: clips of two of them that move in a black frame; the held-out clips
show the held-out digits. Each digit moves by whole pixels and bounces off the walls, and the second one hides what is
behind it. So a clip can be predicted, but not by moving the last frame on. Without a size the frame is 12 x 12 pixels.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

from igpt_jax.config import DataConfig
from igpt_jax.data.sources.base import ArraySource, Record, Source, Split, window_start
from igpt_jax.errors import InputError, require

DIGITS_HELD_OUT = 297
CLIPS = {"train": 10_000, "eval": 500}
LENGTH = 64
"""Frames of a clip."""
SIDE = 8
"""Rows and columns of a digit."""
LARGEST = 256
_VERSION = "moving digits 1"  # of the digest: another number when the pixels of a clip change


def open_digits(cfg: DataConfig, split: Split, where: str) -> Source:
    """The digits, their 17 levels of grey scaled to 0..255; InputError unless `where` is empty."""
    from sklearn.datasets import load_digits

    require(not where, "data.source", f"write digits alone, without {':' + where!r}")
    images, labels = load_digits(return_X_y=True)
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    part = slice(None, -DIGITS_HELD_OUT) if split == "train" else slice(-DIGITS_HELD_OUT, None)
    return ArraySource("digits", images[part], labels[part], tuple("0123456789"), cfg.channels)


class MovingDigits(Source):
    """Clip i is a function of (split, i) and the size alone. Clips have no label."""

    def __init__(self, cfg: DataConfig, split: Split, where: str) -> None:
        self.name = cfg.source
        self._size = _parse_size(where)
        self._step, self._channels = cfg.frame_step, cfg.channels
        self._stream = ("train", "eval").index(split)
        self._n = CLIPS[split]
        digits = open_digits(cfg, split, "")
        self._digits = np.stack([digits.read(i, None)["image"][..., 0] for i in range(len(digits))])
        self.digest = hashlib.sha256(f"{_VERSION} {self._size} {split} {digits.digest}".encode()).hexdigest()

    def __len__(self) -> int:
        return self._n

    def read(self, i: int, rng: np.random.Generator | None) -> Record:
        frames = self.frames or 1
        try:
            first = window_start(LENGTH, (frames - 1) * self._step + 1, rng)
        except InputError as error:
            raise InputError(f"data.source: a clip of {self.name} {error}") from None
        draws = np.random.Generator(np.random.Philox(key=self._stream << 64 | i))
        room = np.subtract(self._size, SIDE)
        digits = self._digits[draws.integers(len(self._digits), size=2)]
        places, velocities = draws.integers(room + 1, size=(2, 2)), np.stack([_velocity(draws, room) for _ in "ab"])
        times = first + self._step * np.arange(frames)
        clip = np.zeros((frames, *self._size), np.uint8)
        for digit, place, velocity in zip(digits, places, velocities, strict=True):
            for frame, (top, left) in zip(clip, bounced(place + times[:, None] * velocity, room), strict=True):
                view = frame[top : top + SIDE, left : left + SIDE]
                view[digit > 0] = digit[digit > 0]
        clip = np.repeat(clip[..., None], self._channels, axis=3)
        return Record(image=clip if self.frames else clip[0], label=-1)


def bounced(places: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Places on a straight line, folded into 0..room: the reflection at both walls. int [..., 2]."""
    period = 2 * room
    inside = places % period
    return np.minimum(inside, period - inside)


def _velocity(draws: np.random.Generator, room: np.ndarray) -> np.ndarray:
    """Rows and columns a frame, int [2]: along each axis half of the digits rest. None meets a wall in every frame."""
    fastest = np.maximum(1, room // 4)
    return draws.integers(2, size=2) * draws.choice((-1, 1), size=2) * draws.integers(1, fastest + 1)


def _parse_size(where: str) -> tuple[int, int]:
    """(rows, columns) of ROWSxCOLUMNS."""
    match = re.fullmatch(r"([0-9]{1,3})x([0-9]{1,3})", where or "12x12")
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    possible = min(size) > SIDE and max(size) <= LARGEST
    what = f"moving_digits:ROWSxCOLUMNS takes sizes of {SIDE + 1} to {LARGEST}, such as moving_digits:16x16"
    require(possible, "data.source", f"{what}, not {where!r}")
    return size
