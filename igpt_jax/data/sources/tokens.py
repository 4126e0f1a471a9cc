"""`tokens:PREFIX`: images that are palette ids already, as the release has them: PREFIX_trX.npy, PREFIX_trY.npy, ...

The splits `train`, `validation` and `test` (`data.train_split`, `data.eval_split`) are the files with tr, va and te.
The palette `kmeans_centers.npy` lies beside them. A record is the picture that the palette gives the ids. Encoding it
gives the same ids again, so no filter and no rounding comes between the release's figures and ours.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.config import DataConfig
from igpt_jax.data.sources.base import Record, Source, Split
from igpt_jax.errors import InputError, require

PALETTE = "kmeans_centers.npy"
"""The file of colours beside the weights and the tokenised images that OpenAI released."""
SPLITS = {"train": "tr", "validation": "va", "test": "te"}
"""Split -> its letters in the names of the release's files."""


class TokenSource(Source):
    """The images of one split. The ids stay on disk until a record is read, which raises InputError if one is beyond
    the palette."""

    def __init__(self, cfg: DataConfig, split: Split, where: str) -> None:
        require(bool(where), "data.source", "name the files: tokens:DIRECTORY/imagenet for imagenet_trX.npy and others")
        require(cfg.channels == 3, "data.channels", "must be 3: the palette of tokenised images is RGB")
        name = cfg.train_split if split == "train" else cfg.eval_split
        key = "data.train_split" if split == "train" else "data.eval_split"
        require(name in SPLITS, key, f"must be one of {', '.join(SPLITS)}, which {where} has; got {name!r}")
        prefix = Path(f"{where}_{SPLITS[name]}")
        self.name = cfg.source
        self._path = Path(f"{prefix}X.npy")
        tokens = _open(self._path)
        require(np.issubdtype(tokens.dtype, np.integer), "data.source", f"{self._path}: holds {tokens.dtype}, not ids")
        side = math.isqrt(math.prod(tokens.shape[1:]))
        square = tokens.ndim in (2, 3) and len(tokens) > 0 and tokens.shape[1:] in ((side**2,), (side, side))
        require(square, "data.source", f"{self._path}: has shape {tokens.shape}, not [n, side * side]")
        self._side, self._n = side, len(tokens)
        self._pixels = _palette(Path(where).parent / PALETTE)
        labels = Path(f"{prefix}Y.npy")
        self.labels, classes = _labels(labels, len(tokens)) if labels.exists() else (np.full(len(tokens), -1), 0)
        self.class_names = tuple(map(str, range(classes)))
        self.digest = _digest(tokens, self.labels, self._pixels)
        self._tokens: np.ndarray | None = tokens

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tokens": None}  # a worker process maps the file itself

    def __len__(self) -> int:
        return self._n

    def read(self, i: int, rng: np.random.Generator | None) -> Record:
        if self._tokens is None:
            self._tokens = _open(self._path)
        ids = self._tokens[i].reshape(self._side, self._side)
        if ids.min() < 0 or ids.max() >= len(self._pixels):
            beyond = f"image {i} has ids {ids.min()} to {ids.max()}, and the palette 0 to {len(self._pixels) - 1}"
            raise InputError(f"data.source: {self._path}: {beyond}")
        return Record(image=self._pixels[ids], label=int(self.labels[i]))


def _open(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        fetch = "igpt fetch --dataset imagenet (or cifar10) downloads the release's"
        raise InputError(f"data.source: there is no {str(path)!r}; {fetch}") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"data.source: {str(path)!r} cannot be read: {error}") from None


def _palette(path: Path) -> np.ndarray:
    """uint8 [V, 3]: the pixel of each id, as `Palette.decode` rounds it."""
    centers = _open(path)
    shaped = centers.ndim == 2 and centers.shape[1] == 3 and np.issubdtype(centers.dtype, np.floating)
    require(shaped, "data.source", f"{path}: has shape {centers.shape}, not that of a palette, [colours, 3]")
    centers = centers.astype(np.float32)
    require(bool((np.abs(centers) <= 1).all()), "data.source", f"{path}: a palette's colours lie in [-1, 1]")
    pixels = np.rint((centers + 1) * 127.5).clip(0, 255).astype(np.uint8)
    nearest = [np.square(pixel / np.float32(127.5) - 1 - centers).sum(axis=1).argmin() for pixel in pixels]
    same = np.array_equal(nearest, np.arange(len(pixels)))
    require(same, "data.source", f"{path}: two of its colours round to the same pixel, so ids cannot be told apart")
    return pixels


def _labels(path: Path, n: int) -> tuple[np.ndarray, int]:
    """int32 [n], and how many classes there are; from class numbers, or from rows with a 1 in the class's place."""
    stored = _open(path)
    require(len(stored) == n, "data.source", f"{path}: has {len(stored)} labels for {n} images")
    if stored.ndim == 2:
        classes, labels = stored.shape[1], np.empty(n, np.int32)
        for start in range(0, n, 10_000):
            rows = stored[start : start + 10_000]
            marked = bool(((rows != 0).sum(axis=1) == 1).all())
            require(marked, "data.source", f"{path}: a row does not have a 1 in one place and 0 elsewhere")
            labels[start : start + 10_000] = rows.argmax(axis=1)
        return labels, classes
    numbers = stored.ndim == 1 and np.issubdtype(stored.dtype, np.integer)
    require(numbers, "data.source", f"{path}: has shape {stored.shape} and type {stored.dtype}, not class numbers")
    return np.array(stored, np.int32), int(stored.max()) + 1


def _digest(tokens: np.ndarray, labels: np.ndarray, pixels: np.ndarray) -> str:
    """Of all labels and colours, and of a thousand images: the whole file would take minutes."""
    content = hashlib.sha256(f"{tokens.shape} {tokens.dtype}".encode())
    for i in np.linspace(0, len(tokens) - 1, min(1000, len(tokens))).astype(int):
        content.update(np.ascontiguousarray(tokens[i]).data)
    content.update(pixels.data)
    content.update(labels.astype("<i4").data)
    return content.hexdigest()
