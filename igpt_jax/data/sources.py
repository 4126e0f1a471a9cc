"""Where pictures come from: scikit-learn digits, a folder of images, MNIST-format files or a TFDS dataset.

Every source is a picklable, thread-safe sequence of records with uint8 pixels as they were stored. Size, augmentation,
order and batches are left to `preprocess` (which also reads image files) and `pipeline`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from igpt_jax.config import DataConfig, InputError
from igpt_jax.data.folder import FolderSource
from igpt_jax.data.preprocess import load_image
from igpt_jax.data.record import Record, Source, Split
from igpt_jax.validation import first_line

log = logging.getLogger(__name__)

DIGITS_HELD_OUT = 297


def open_source(cfg: DataConfig, split: Split) -> Source:
    """Opens `cfg.source`: `digits`, `folder:PATH`, `idx:PATH` or `tfds:NAME`.

    Args:
      cfg: which source, and how many channels its records shall have.
      split: `train` or `eval`. digits: the last 297 images are held out. folder: `train/` against `val/` (or `valid`,
        `validation`, `test`) where both exist, else `cfg.holdout` by a hash of the file name. idx: the files of
        `cfg.train_split` or `cfg.eval_split` (`test` also finds `t10k`). tfds: those two in tfds split syntax.

    Raises:
      InputError: the source is unknown, missing, empty, damaged or too much of it is unreadable.
    """
    kind, _, where = cfg.source.partition(":")
    if cfg.source == "digits":
        return _open_digits(cfg, split)
    if kind in ("folder", "idx", "tfds") and where:
        return {"folder": FolderSource, "idx": _open_idx, "tfds": _TfdsSource}[kind](cfg, split, where)
    raise InputError(f"data.source: {cfg.source!r} is none of digits, folder:PATH, idx:PATH, tfds:NAME")


# Arrays in memory: digits and idx


class _ArraySource:
    """Grey images uint8 [n, y, x] and labels int [n] in memory."""

    def __init__(
        self, name: str, images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], channels: int
    ) -> None:
        self.name = name
        self.class_names = class_names
        self._images, self._labels, self._channels = images, labels, channels
        held = hashlib.sha256(repr(images.shape).encode())
        held.update(np.ascontiguousarray(images).data)
        held.update(labels.astype("<i4").data)
        self.digest = held.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> Record:
        return Record(image=np.repeat(self._images[i][..., None], self._channels, axis=2), label=int(self._labels[i]))


def _open_digits(cfg: DataConfig, split: Split) -> Source:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    part = slice(None, -DIGITS_HELD_OUT) if split == "train" else slice(-DIGITS_HELD_OUT, None)
    return _ArraySource("digits", images[part], labels[part], tuple("0123456789"), cfg.channels)


def _open_idx(cfg: DataConfig, split: Split, where: str) -> Source:
    prefix = cfg.train_split if split == "train" else cfg.eval_split
    folder, prefixes = Path(where).expanduser(), ("t10k", "test") if prefix == "test" else (prefix,)
    image_file = _find_idx(folder, prefixes, "images", 3)
    if image_file is None:
        wanted = " or ".join(f"{p}-images-idx3-ubyte[.gz]" for p in prefixes)
        raise InputError(f"data.source: no {wanted} in {where!r}")
    images = _read_idx(image_file, 3)
    if images.size == 0:
        raise InputError(f"data.source: {str(image_file)!r} holds no image")
    label_file = _find_idx(folder, prefixes, "labels", 1)
    if label_file is None:
        log.info("%s has no labels beside it", image_file)
        return _ArraySource(cfg.source, images, np.full(len(images), -1), (), cfg.channels)
    labels = _read_idx(label_file, 1)
    if len(labels) != len(images):
        raise InputError(
            f"data.source: {str(label_file)!r} has {len(labels)} labels, but {image_file.name} {len(images)} images"
        )
    return _ArraySource(cfg.source, images, labels, tuple(map(str, range(labels.max() + 1))), cfg.channels)


def _find_idx(folder: Path, prefixes: Sequence[str], what: str, ndim: int) -> Path | None:
    names = (f"{p}-{what}{dot}idx{ndim}-ubyte{gz}" for p in prefixes for dot in "-." for gz in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """Reads unsigned bytes of `ndim` dimensions in the MNIST format (big-endian sizes after a magic number)."""

    def damaged(why: str) -> InputError:
        return InputError(f"data.source: {str(path)!r} is damaged: {why}")

    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * ndim)
            if header[:4] != bytes((0, 0, 8, ndim)):
                raise damaged(
                    f"its magic number is {header[:4].hex() or 'missing'}, not {bytes((0, 0, 8, ndim)).hex()}"
                )
            shape = tuple(int(n) for n in np.frombuffer(header[4:], ">u4")) if len(header) == 4 + 4 * ndim else ()
            if not shape:
                raise damaged("it ends within its header")
            size = int(np.prod(shape, dtype=object))
            body = bytearray()  # grown as data arrives, since the sizes in the header may lie
            while len(body) <= size and (chunk := file.read(min(1 << 20, size + 1 - len(body)))):
                body += chunk
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(str(error)) from None
    if len(body) != size:
        raise damaged(
            f"its header promises {size} bytes of {' x '.join(map(str, shape))}, but "
            + (f"it ends after {len(body)}" if len(body) < size else "more follow")
        )
    return np.frombuffer(bytes(body), np.uint8).reshape(shape)


# TensorFlow Datasets, read without TensorFlow


class _TfdsSource:
    """A dataset prepared as ArrayRecord. Its images are decoded by `load_image`, so that every machine agrees."""

    def __init__(self, cfg: DataConfig, split: Split, where: str) -> None:
        self.name = cfg.source
        self._channels: Literal[1, 3] = cfg.channels
        self._where = where
        self._split = cfg.train_split if split == "train" else cfg.eval_split
        self._records, label = _open_tfds(where, self._split)
        self._labelled = label is not None and not label.shape and np.issubdtype(label.np_dtype, np.integer)
        self.class_names: tuple[str, ...] = tuple(getattr(label, "names", ())) if self._labelled else ()
        held = (self._records.dataset_info.full_name, self._split, len(self._records))  # the full name has the version
        self.digest = hashlib.sha256(repr(held).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._records, _ = _open_tfds(self._where, self._split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Record:
        record = self._records[i]
        try:
            image = load_image(io.BytesIO(record["image"]), self._channels)
        except InputError as error:
            raise InputError(f"data.source: record {i} of {self.name} ({self._split}): {error}") from None
        return Record(image=image, label=int(record["label"]) if self._labelled else -1)


def _open_tfds(name: str, split: str) -> tuple[Any, Any]:
    """The records of a split, their images still encoded, and the feature `label` or None."""
    import tensorflow_datasets as tfds

    how = (
        f"prepare it once with: tfds build {name} --file_format=array_record (for most image sets that needs "
        "TensorFlow, which reading does not: pip install -e '.[openai]')"
    )
    try:
        builder: Any = tfds.builder(name, file_format="array_record")
        prepared, features = builder.is_prepared(), dict(builder.info.features or {})
    except tfds.core.DatasetNotFoundError:
        raise InputError(f"data.source: TFDS knows no dataset {name!r}, and none lies prepared") from None
    except Exception as error:  # a builder runs its own code, which may want TensorFlow and fails as it likes
        raise InputError(f"data.source: TFDS cannot open {name!r} ({first_line(error)}); {how}") from None
    if not prepared:
        raise InputError(f"data.source: TFDS has not prepared {name!r} as ArrayRecord; {how}")
    if not isinstance(features.get("image"), tfds.features.Image):
        raise InputError(f"data.source: tfds:{name} has no image under 'image', only {', '.join(features)}")
    try:
        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except (ValueError, KeyError) as error:
        raise InputError(f"data.source: split {split!r} of tfds:{name}: {first_line(error)}") from None
    return records, features.get("label")
