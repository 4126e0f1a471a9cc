"""`folder:PATH` and `clips:PATH`: the images or the clips of a folder, with subfolders as classes.

A clip is a file (mp4, mov, WebM, mkv, GIF) or a folder of at least two pictures whose names end in numbers.

The splits are the folders `train/` and `val/` (or `valid/`, `validation/`, `test/`) where both exist. Otherwise
`data.holdout` of the records are held out, by a hash of what `data.group` leaves of each name. The log counts files in
formats not read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from igpt_jax.config import DataConfig
from igpt_jax.data.reading import FORMATS, SUFFIXES, load_image
from igpt_jax.data.sources.base import Record, Selection, Source, Split, group_hash, window_start
from igpt_jax.data.video import CLIP_SUFFIXES, FRAME_SUFFIXES, load_clip, numbered_pictures, require_av
from igpt_jax.errors import InputError, require
from igpt_jax.files import normal_form

log = logging.getLogger(__name__)

EVAL_FOLDERS = ("val", "valid", "validation", "test")
NOT_DATA = frozenset(
    ("", ".csv", ".html", ".json", ".jsonl", ".log", ".md", ".py", ".tsv", ".txt", ".xml", ".yaml", ".yml")
)
"""Suffixes of files that nobody would take for pictures; they are not counted."""


class PathSource(Source):
    """The files of one split in the order of their names. In place of one that cannot be read, or is too short, the
    record is that of the next readable one.

    Names are compared in one normal form (NFC), since file systems and archives differ in theirs. Split `all` is every
    file of a folder without split folders.

    Raises:
      InputError: there is no such folder, or it has no such file. Later, from reading a record: more than
        `data.max_unreadable` of them could not be read.
    """

    what: ClassVar[str]
    """A record is an image or a clip."""
    formats: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]
    ignored: ClassVar[frozenset[str]] = NOT_DATA
    """Suffixes of files that are neither records nor counted."""

    def __init__(self, cfg: DataConfig, split: Selection, where: str) -> None:
        kind = cfg.source.partition(":")[0]
        require(bool(where), "data.source", f"name the folder: {kind}:PATH")
        root = Path(where)
        require(root.is_dir(), "data.source", f"there is no folder {where!r}")
        folders = split_folders(root) or {split: root}
        skipped: Counter[str] = Counter()
        try:
            listed = {name: sorted(self._list(folder, skipped), key=normal_form) for name, folder in folders.items()}
        except OSError as error:
            raise InputError(f"data.source: {error}") from None
        self.name, self._cfg, self._root, paths = cfg.source, cfg, str(folders[split]), listed[split]
        counts = " and ".join(f"{n} {suffix}" for suffix, n in skipped.most_common(5))
        formats = f"(formats read: {self.formats})"
        self._unread = f"; {counts} files are not read {formats}" if skipped else ""
        require(bool(paths), "data.source", f"no {self.what} in {self._root!r}{self._unread or ' ' + formats}")
        if skipped and split != "eval":  # the half `train` says it for both
            log.warning("%s: %d %ss%s", cfg.source, sum(map(len, listed.values())), self.what, self._unread)
        # the classes of both splits, so that a class that one split lacks does not change the numbers of the others
        classes = {class_of(path) for half in listed.values() for path in half}
        self.class_names = tuple(sorted(classes - {""}))
        self._total = len(paths)
        if len(folders) == 1 and split != "all":
            paths = hold_out(paths, cfg, self._root, self.what)[split]
        self._paths = paths
        numbers = {name: i for i, name in enumerate(self.class_names)}
        self.labels = np.array([numbers.get(class_of(path), -1) for path in paths])
        self.groups = group_hash(group_name(path, cfg) for path in paths)
        names = (normal_form(path).encode("utf-8", "surrogateescape") for path in paths)
        self.digest = hashlib.sha256(b"".join(name + b"\0" for name in names)).hexdigest()
        self._unreadable: dict[str, None] = {}  # an ordered set

    @property
    def unreadable(self) -> int:
        """How many files could not be read so far. Each worker process has its own count."""
        return len(self._unreadable)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, i: int, rng: np.random.Generator | None) -> Record:
        n = len(self._paths)
        for j in (k % n for k in range(i, i + n)):
            try:
                image = self._load(os.path.join(self._root, self._paths[j]), rng)
            except InputError as error:
                self._skip(self._paths[j], error)
                continue
            return Record(image=image, label=int(self.labels[j]))
        raise InputError(f"data.source: none of the {n} {self.what}s in {self._root!r} can be read{self._unread}")

    def _list(self, folder: Path, skipped: Counter[str]) -> Iterator[str]:
        """Paths of records, relative to a folder, with forward slashes; suffixes of other files are counted."""
        for prefix, names in walk(folder):
            if self._is_record(prefix, names):
                yield prefix
            for name in names:
                suffix = Path(name).suffix.lower()
                if suffix in self.suffixes:
                    yield prefix + name
                elif suffix not in self.ignored:
                    skipped[suffix] += 1

    def _is_record(self, prefix: str, names: Sequence[str]) -> bool:
        """Whether a folder is itself a record."""
        return False

    @abstractmethod
    def _load(self, file: str, rng: np.random.Generator | None) -> np.ndarray:
        """The pixels of a record; InputError if they cannot be read."""

    def _skip(self, path: str, error: InputError) -> None:
        """Counts a file that cannot be read; InputError if they are too many now."""
        if path not in self._unreadable:  # two threads at once may both warn
            log.warning("skipped: %s", error)
        self._unreadable[path] = None
        names, limit = list(self._unreadable), self._cfg.max_unreadable
        if len(names) > limit * self._total:
            raise InputError(
                f"data.source: at least {len(names)} of {self._total} {self.what}s in {self._root!r} cannot be read, "
                f"such as {', '.join(map(repr, names[:3]))}; repair or remove them, or raise data.max_unreadable to "
                f"{min(1.0, max(0.2, 2 * limit)):g}"
            )


class FolderSource(PathSource):
    """Images of any size; InputError also if none of them can be read."""

    what, formats, suffixes = "image", ", ".join(FORMATS), SUFFIXES

    def __init__(self, cfg: DataConfig, split: Selection, where: str) -> None:
        super().__init__(cfg, split, where)
        self.read(0, None)  # raises if no image can be read

    def _load(self, file: str, rng: np.random.Generator | None) -> np.ndarray:
        return load_image(file, self._cfg.channels)


class ClipFolder(PathSource):
    """Clips of any length; InputError also if PyAV is missing."""

    what, formats = "clip", f"{', '.join(sorted(CLIP_SUFFIXES))} and folders of numbered pictures"
    suffixes, ignored = CLIP_SUFFIXES, FRAME_SUFFIXES | NOT_DATA

    def __init__(self, cfg: DataConfig, split: Selection, where: str) -> None:
        super().__init__(cfg, split, where)
        if any(not path.endswith("/") for path in self._paths):
            require_av(f"data.source: {cfg.source}")

    def _is_record(self, prefix: str, names: Sequence[str]) -> bool:
        return bool(prefix) and len(numbered_pictures(names)) > 1

    def _load(self, file: str, rng: np.random.Generator | None) -> np.ndarray:
        cfg = self._cfg

        def start(length: int, span: int) -> int:
            return window_start(length, span, rng)

        clip = load_clip(file, self.frames or 1, cfg.frame_step, cfg.channels, start)
        return clip if self.frames else clip[0]


def walk(folder: Path, prefix: str = "", parents: tuple[Path, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """("a/b/", names of files) of a folder and those in it, without hidden ones and links to folders above."""
    parents += (folder.resolve(),)
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    # a link may dangle: then it is a file that cannot be read
    yield prefix, [e.name for e in visible if not e.is_dir() and (e.is_file() or e.is_symlink())]
    for entry in visible:
        if entry.is_dir() and (folder / entry.name).resolve() not in parents:
            yield from walk(folder / entry.name, f"{prefix}{entry.name}/", parents)


def split_folders(root: Path) -> dict[Selection, Path] | None:
    """The folders of both splits, if both exist."""
    held_out = next((root / name for name in EVAL_FOLDERS if (root / name).is_dir()), None)
    return {"train": root / "train", "eval": held_out} if held_out and (root / "train").is_dir() else None


def class_of(path: str) -> str:
    """The first folder above a record, or nothing."""
    return normal_form(path.rstrip("/").rpartition("/")[0].partition("/")[0])


def hold_out(paths: Sequence[str], cfg: DataConfig, root: str, what: str = "image") -> dict[Split, list[str]]:
    """Both splits, `data.holdout` of the paths held out. The hash of a path decides, so that a new file moves no other.

    The hash leaves out what `data.group` matches. Neither split is empty: the paths with the lowest hash are always
    held out, those with the highest never. InputError if all paths have the same hash.
    """
    hashes = group_hash(group_name(path, cfg) for path in paths).astype(np.float64) / 2**64
    ranks = dict(zip(paths, hashes.tolist(), strict=True))
    lowest, highest = min(ranks.values()), max(ranks.values())
    alike = f" whose names differ without data.group {cfg.group!r}" if cfg.group else ""
    require(lowest < highest, "data.source", f"{root!r} has one {what}{alike}; holding some out needs at least two")
    held_out = {path for path, at in ranks.items() if at == lowest or at < min(cfg.holdout, highest)}
    return {
        "train": [path for path in paths if path not in held_out],
        "eval": [path for path in paths if path in held_out],
    }


def group_name(path: str, cfg: DataConfig) -> str:
    """A path in normal form without what `data.group` matches; InputError if that is no regular expression."""
    try:
        return re.sub(cfg.group, "", normal_form(path)) if cfg.group else normal_form(path)
    except re.error as error:
        raise InputError(f"data.group: {cfg.group!r} is no regular expression: {error}") from None
