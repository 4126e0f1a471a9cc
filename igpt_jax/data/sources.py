"""Where pictures come from: scikit-learn digits, a folder of images, MNIST-format files or a TFDS dataset.

Every source is a picklable, thread-safe sequence of records with uint8 pixels as they were stored. Size, augmentation,
order and batches are left to `preprocess` (which also reads image files) and `pipeline`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import threading
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import numpy as np

from igpt_jax.config import DataConfig, InputError
from igpt_jax.data.preprocess import first_line, image_fault, load_image

log = logging.getLogger(__name__)

Split = Literal["train", "eval"]

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"))
EVAL_FOLDERS = ("val", "valid", "validation", "test")
DIGITS_HELD_OUT = 297


class Record(TypedDict):
    """One picture: `image` uint8 [y, x, c] of any size with c = data.channels, `label` int or -1 for none."""

    image: np.ndarray
    label: int


class Source(Protocol):
    """A picklable, thread-safe sequence of records with random access."""

    @property
    def name(self) -> str: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Record: ...


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
        return {"folder": _FolderSource, "idx": _open_idx, "tfds": _TfdsSource}[kind](cfg, split, where)
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


# A folder of image files


class _FolderSource:
    """Image files of a folder. One whose pixels fail at reading is replaced by the next readable one.

    `unreadable` counts the files of the folder found unreadable so far, at opening by their header and later by their
    pixels; each is warned of once. Every worker process keeps its own count.
    """

    def __init__(self, cfg: DataConfig, split: Split, where: str) -> None:
        self.name = cfg.source
        self._channels: Literal[1, 3] = cfg.channels
        self._limit = cfg.max_unreadable
        self._lock = threading.Lock()
        self._bad: dict[str, None] = {}  # an ordered set
        root = Path(where).expanduser()
        other = next((name for name in EVAL_FOLDERS if (root / name).is_dir()), None)
        divided = other is not None and (root / "train").is_dir()
        self._root = str(root / ("train" if split == "train" else str(other))) if divided else str(root)
        if not root.is_dir():
            raise InputError(f"data.source: there is no folder {where!r}")
        try:
            listed = _list_images(Path(self._root))
            # named from both halves, so that a class absent from one does not renumber the others
            named = [p for half in ("train", str(other)) for p in _list_images(root / half)] if divided else listed
        except OSError as error:
            raise InputError(f"data.source: {error}") from None
        if not listed:
            raise InputError(f"data.source: no image ({', '.join(sorted(SUFFIXES))}) in {self._root!r}")
        self._total = len(listed)
        self.class_names = tuple(sorted({path.partition("/")[0] for path in named if "/" in path}))
        self._labels = {name: i for i, name in enumerate(self.class_names)}
        self._paths = self._check_headers(listed)
        if not divided:
            self._paths = _hold_out(self._paths, cfg.holdout, self._root)[split]

    @property
    def unreadable(self) -> int:
        return len(self._bad)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> Record:
        n = len(self._paths)
        for path in (self._paths[j % n] for j in range(i, i + n)):
            try:
                image = load_image(os.path.join(self._root, path), self._channels)
            except InputError as error:
                self._count_unreadable({path: str(error)})
            else:
                top, below, _ = path.partition("/")
                return Record(image=image, label=self._labels[top] if below else -1)
        raise InputError(f"data.source: none of the {n} images in {self._root!r} can be read")

    def _check_headers(self, paths: list[str]) -> list[str]:
        def faults(part: list[str]) -> dict[str, str]:
            return {path: fault for path in part if (fault := image_fault(os.path.join(self._root, path)))}

        parts = [paths[i : i + 512] for i in range(0, len(paths), 512)]  # not one future for each of a million files
        with ThreadPoolExecutor(16) as pool:
            self._count_unreadable({path: fault for found in pool.map(faults, parts) for path, fault in found.items()})
        good = [path for path in paths if path not in self._bad]
        if not good:
            raise InputError(f"data.source: none of the {len(paths)} images in {self._root!r} can be read")
        return good

    def _count_unreadable(self, faults: dict[str, str]) -> None:
        with self._lock:
            for path in sorted(faults.keys() - self._bad.keys()):
                log.warning("skipped: %s", faults[path])
            self._bad |= dict.fromkeys(faults)
            bad = list(self._bad)
        if len(bad) > self._limit * self._total:
            few = ", ".join(map(repr, bad[:3])) + (", ..." if len(bad) > 3 else "")
            raise InputError(
                f"data.source: {len(bad)} of {self._total} images in {self._root!r} cannot be read ({few}); mend or "
                f"remove them, or allow more with --data.max-unreadable (now {self._limit:g})"
            )


def _list_images(root: Path) -> list[str]:
    """Image files below `root` as sorted relative paths with forward slashes; hidden files and folders are left out."""

    def walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        stat = folder.stat()
        here = (stat.st_dev, stat.st_ino)
        if here in above:  # links are followed, but not round in circles
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from walk(folder / entry.name, f"{prefix}{entry.name}/", above | {here})
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and (
                    entry.is_file() or not os.path.exists(entry.path)  # a dangling link counts as unreadable
                ):
                    yield prefix + entry.name

    return sorted(walk(root, "", frozenset()))


def _hold_out(paths: list[str], share: float, root: str) -> dict[Split, list[str]]:
    """Splits by a hash of each path, so that adding files moves no other.

    Neither half is empty: the path with the lowest hash is always held out, the one with the highest never.
    """
    if len(paths) < 2:
        raise InputError(f"data.source: {root!r} holds one readable image; holding some out needs at least two")

    def rank(path: str) -> float:
        # a file system may hand the same name back in composed or in decomposed Unicode
        name = unicodedata.normalize("NFC", path).encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") / 2**64

    ranks = {path: rank(path) for path in paths}
    held_out = {path for path in paths if ranks[path] < share}
    held_out -= {max(paths, key=lambda path: ranks[path])}
    held_out |= {min(paths, key=lambda path: ranks[path])}
    return {"train": [p for p in paths if p not in held_out], "eval": [p for p in paths if p in held_out]}


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
        "TensorFlow, which reading does not: pip install 'igpt_jax[openai]')"
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
