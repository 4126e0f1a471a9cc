"""`idx:PATH`: a folder of files in the format of MNIST, compressed or not.

The splits are the files whose names begin with `data.train_split` and `data.eval_split`; `test` also finds `t10k`.
"""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from igpt_jax.config import DataConfig
from igpt_jax.data.sources.base import ArraySource, Source, Split
from igpt_jax.errors import InputError, require

log = logging.getLogger(__name__)


def open_idx(cfg: DataConfig, split: Split, where: str) -> Source:
    """Reads the images of a split, and the labels if there are any, into memory."""
    require(bool(where), "data.source", "name the folder: idx:PATH")
    folder = Path(where)
    prefix = cfg.train_split if split == "train" else cfg.eval_split
    prefixes = ("t10k", "test") if prefix == "test" else (prefix,)
    image_file, label_file = _find(folder, prefixes, "images", 3), _find(folder, prefixes, "labels", 1)
    if image_file is None:
        names = " or ".join(f"{p}-images-idx3-ubyte[.gz]" for p in prefixes)
        raise InputError(f"data.source: no {names} in {where!r}")
    images = _read(image_file, 3)
    require(images.size > 0, "data.source", f"{str(image_file)!r} holds no image")
    if label_file is None:
        log.info("%s: no label file beside it, so its images have no labels", image_file)
        return ArraySource(cfg.source, images, np.full(len(images), -1), (), cfg.channels)
    labels = _read(label_file, 1)
    counts = f"{str(label_file)!r} has {len(labels)} labels, but {image_file.name} has {len(images)} images"
    require(len(labels) == len(images), "data.source", counts)
    class_names = tuple(map(str, range(int(labels.max()) + 1)))
    return ArraySource(cfg.source, images, labels, class_names, cfg.channels)


def _find(folder: Path, prefixes: Sequence[str], content: str, ndim: int) -> Path | None:
    names = (f"{p}-{content}{dot}idx{ndim}-ubyte{gz}" for p in prefixes for dot in "-." for gz in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(path: Path, ndim: int) -> np.ndarray:
    """An array uint8 of `ndim` dimensions. The file is a magic number, big-endian sizes, and the values."""
    magic, start = bytes((0, 0, 8, ndim)), 4 + 4 * ndim
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
        if content[:4] != magic:
            raise ValueError(f"its magic number is {content[:4].hex() or 'missing'}, not {magic.hex()}")
        if len(content) < start:
            raise ValueError("it ends within its header")
        shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
        if len(content) - start != math.prod(shape):
            sizes = " x ".join(map(str, shape))
            raise ValueError(f"its header says {sizes} bytes of values, but it has {len(content) - start}")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"data.source: {str(path)!r} is damaged: {error}") from None
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
