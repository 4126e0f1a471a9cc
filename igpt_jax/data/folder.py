"""A folder of image files as a source: listed, its headers checked, split, and read with bad files replaced."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from igpt_jax.config import DataConfig, InputError
from igpt_jax.data.preprocess import image_fault, load_image
from igpt_jax.data.record import Record, Split

log = logging.getLogger(__name__)

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"))
EVAL_FOLDERS = ("val", "valid", "validation", "test")

T = TypeVar("T")


class FolderSource:
    """Image files of a folder. One whose pixels fail at reading is replaced by the next readable one.

    `unreadable` counts the files of the folder found unreadable so far: at opening by their header, which one warning
    sums up for both splits, and later by their pixels, each warned of once. Every worker process keeps its own count.
    """

    def __init__(self, cfg: DataConfig, split: Split, where: str) -> None:
        self.name = cfg.source
        self._channels: Literal[1, 3] = cfg.channels
        self._limit = cfg.max_unreadable
        self._lock = threading.Lock()
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
        good, bad = _check_headers(self._root, tuple(listed), _stamp(self._root, listed), self._limit)
        self._bad = dict.fromkeys(bad)  # an ordered set
        self._paths = good if divided else _hold_out(good, cfg.holdout, self._root)[split]
        self.digest = hashlib.sha256(b"".join(_name_bytes(path) + b"\0" for path in self._paths)).hexdigest()

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
                self._count_unreadable(path, str(error))
            else:
                top, below, _ = path.partition("/")
                return Record(image=image, label=self._labels[top] if below else -1)
        raise InputError(f"data.source: none of the {n} images in {self._root!r} can be read")

    def _count_unreadable(self, path: str, fault: str) -> None:
        with self._lock:
            if path not in self._bad:
                log.warning("skipped: %s", fault)
            self._bad[path] = None
            bad = list(self._bad)
        _require_few(bad, self._total, self._root, self._limit)


@functools.lru_cache(maxsize=1)  # for the other split of the same folder, which is opened next
def _check_headers(root: str, paths: tuple[str, ...], stamp: str, limit: float) -> tuple[tuple[str, ...], ...]:
    """Readable and unreadable paths by their headers, with one warning that sums up the latter.

    `stamp` has no other use than to check again when a file has changed.
    """

    def fault(path: str) -> str | None:
        return image_fault(os.path.join(root, path))

    faults = {path: why for path, why in zip(paths, _on_threads(fault, paths), strict=True) if why}
    good = tuple(path for path in paths if path not in faults)
    if not good:
        raise InputError(f"data.source: none of the {len(paths)} images in {root!r} can be read")
    _require_few(list(faults), len(paths), root, limit)
    if faults:
        whys = [f"{path!r}: {why.partition(' as an image: ')[2] or why}" for path, why in list(faults.items())[:3]]
        few = "; ".join(whys + ["..."] * (len(faults) > 3))
        log.warning("folder %r: skipped %d of %d images that cannot be read (%s)", root, len(faults), len(paths), few)
    return good, tuple(faults)


def _stamp(root: str, paths: list[str]) -> str:
    """A digest that changes when a file is written or replaced."""

    def stamp(path: str) -> tuple[int, ...]:
        try:
            stat = os.stat(os.path.join(root, path))
        except OSError:
            return ()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    held = hashlib.sha256()
    for each in _on_threads(stamp, paths):
        held.update(repr(each).encode())
    return held.hexdigest()


def _on_threads(function: Callable[[str], T], paths: Sequence[str]) -> Iterator[T]:
    parts = [paths[i : i + 512] for i in range(0, len(paths), 512)]  # not one future for each of a million files
    with ThreadPoolExecutor(16) as pool:
        for part in pool.map(lambda part: [function(path) for path in part], parts):
            yield from part


def _require_few(bad: list[str], total: int, root: str, limit: float) -> None:
    if len(bad) > limit * total:
        few = ", ".join(map(repr, bad[:3])) + (", ..." if len(bad) > 3 else "")
        raise InputError(
            f"data.source: {len(bad)} of {total} images in {root!r} cannot be read ({few}); mend or remove them, or "
            f"allow more with --data.max-unreadable (now {limit:g})"
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


def _hold_out(paths: Sequence[str], share: float, root: str) -> dict[Split, list[str]]:
    """Splits by a hash of each path, so that adding files moves no other.

    Neither half is empty: the path with the lowest hash is always held out, the one with the highest never.
    """
    if len(paths) < 2:
        raise InputError(f"data.source: {root!r} holds one readable image; holding some out needs at least two")

    def rank(path: str) -> float:
        return int.from_bytes(hashlib.blake2b(_name_bytes(path), digest_size=8).digest(), "big") / 2**64

    ranks = {path: rank(path) for path in paths}
    held_out = {path for path in paths if ranks[path] < share}
    held_out -= {max(paths, key=lambda path: ranks[path])}
    held_out |= {min(paths, key=lambda path: ranks[path])}
    return {"train": [p for p in paths if p not in held_out], "eval": [p for p in paths if p in held_out]}


def _name_bytes(path: str) -> bytes:
    # a file system may hand the same name back in composed or in decomposed Unicode
    return unicodedata.normalize("NFC", path).encode("utf-8", "surrogateescape")
