"""`folder:PATH`: the image files of a folder, with subfolders as classes.

The splits are the folders `train/` and `val/` (or `valid/`, `validation/`, `test/`) where both exist. Otherwise
`data.holdout` of the images are held out, by a hash of what `data.group` leaves of each file name. The log counts
pictures in formats not read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from igpt_jax.config import DataConfig
from igpt_jax.data.reading import FORMATS, SUFFIXES, load_image
from igpt_jax.data.sources.base import Joined, Record, Selection, Source, Split
from igpt_jax.data.sources.unreadable import Unreadable
from igpt_jax.errors import InputError, require

log = logging.getLogger(__name__)

EVAL_FOLDERS = ("val", "valid", "validation", "test")
_OTHER = (
    ".avif .heic .heif .jp2 .j2k .jpx .jxl .jxr .apng .mpo .svg .svgz .psd .xcf .eps .ico .tga .pcx .ppm .pgm .pbm "
    ".pnm .exr .hdr .dds .qoi .emf .wmf .dng .cr2 .cr3 .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .pef .srw .rwl"
)
OTHER_PICTURES = frozenset(_OTHER.split()) - SUFFIXES
"""So end the names of pictures that are not read; files with other names are not counted."""


class FolderSource:
    """The images of one split in the order of their names.

    In place of a file that cannot be read, the record is that of the next readable one.

    Args:
      split: `all` for every image of a folder without split folders (`open_whole_folder` takes both kinds).

    Raises:
      InputError: there is no such folder, it has no image, or none that can be read. Later, from reading a record: more
        than `data.max_unreadable` of the images could not be read.
    """

    def __init__(self, cfg: DataConfig, split: Selection, where: str) -> None:
        require(bool(where), "data.source", "name the folder: folder:PATH")
        root = Path(where)
        require(root.is_dir(), "data.source", f"there is no folder {where!r}")
        folders = split_folders(root) or {split: root}
        skipped: Counter[str] = Counter()
        try:
            listed = {name: sorted(_list_images(folder, "", (), skipped)) for name, folder in folders.items()}
        except OSError as error:
            raise InputError(f"data.source: {error}") from None
        paths = listed[split]
        self.name = cfg.source
        self._root = str(folders[split])
        self._skipped = say_skipped(skipped)
        formats = f"(formats read: {', '.join(FORMATS)})"
        require(bool(paths), "data.source", f"no image in {self._root!r}{self._skipped} {formats}")
        if skipped and split != "eval":  # the half `train` says it for both
            log.warning("%s: %d pictures%s %s", cfg.source, sum(map(len, listed.values())), self._skipped, formats)
        # the classes of both splits, so that a class that one split lacks does not change the numbers of the others
        self.class_names = tuple(sorted({p.partition("/")[0] for half in listed.values() for p in half if "/" in p}))
        self._labels = {name: i for i, name in enumerate(self.class_names)}
        total = len(paths)
        if len(folders) == 1 and split != "all":
            paths = hold_out(paths, cfg, self._root)[split]
        self._paths = paths
        self.digest = hashlib.sha256(b"".join(name_bytes(path) + b"\0" for path in self._paths)).hexdigest()
        self._unreadable = Unreadable("images", self._root, total, cfg.max_unreadable)
        self._cfg = cfg
        _ = self[0]  # raises if no image can be read

    @property
    def unreadable(self) -> int:
        """How many files could not be read so far. Each worker process has its own count."""
        return len(self._unreadable)

    @property
    def labels(self) -> np.ndarray:
        """int [n]: the class of each file, -1 for files in no class folder."""
        return np.array([self._label(path) for path in self._paths])

    def _label(self, path: str) -> int:
        return self._labels[path.partition("/")[0]] if "/" in path else -1

    def group(self, i: int) -> str:
        """What `data.group` leaves of the name of file i: variants of one picture have the same."""
        return group_name(self._paths[i], self._cfg)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> Record:
        n = len(self._paths)
        for path in (self._paths[j % n] for j in range(i, i + n)):
            try:
                image = load_image(os.path.join(self._root, path), self._cfg.channels)
            except InputError as error:
                self._unreadable.add(path, error)
                continue
            return Record(image=image, label=self._label(path))
        raise InputError(f"data.source: none of the {n} images in {self._root!r} can be read{self._skipped}")


def open_whole_folder(cfg: DataConfig, where: str) -> Source:
    """Every image of a folder once, in the order of their names; first those of `train/` if it has split folders.

    Raises:
      InputError: as FolderSource does.
    """
    if split_folders(Path(where)) is None:
        return FolderSource(cfg, "all", where)
    return Joined(FolderSource(cfg, "train", where), FolderSource(cfg, "eval", where))


def split_folders(root: Path) -> dict[Selection, Path] | None:
    """The folders of both splits, if both exist."""
    held_out = next((root / name for name in EVAL_FOLDERS if (root / name).is_dir()), None)
    return {"train": root / "train", "eval": held_out} if held_out and (root / "train").is_dir() else None


def say_skipped(skipped: Counter[str]) -> str:
    """The end of a message about pictures that are not read, or nothing."""
    counts = " and ".join(f"{n} {suffix}" for suffix, n in skipped.most_common())
    return f"; {counts} files are not read" if skipped else ""


def _list_images(folder: Path, prefix: str, parents: tuple[Path, ...], skipped: Counter[str]) -> Iterator[str]:
    """Relative paths of image files with forward slashes, without hidden files and folders.

    The suffixes of other pictures are counted in `skipped`.
    """
    parents += (folder.resolve(),)
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if path.resolve() not in parents:  # else a link to a folder above itself
                    yield from _list_images(path, f"{prefix}{entry.name}/", parents, skipped)
            elif (suffix := path.suffix.lower()) in SUFFIXES:
                if entry.is_file() or entry.is_symlink():  # a link may dangle
                    yield prefix + entry.name
            elif suffix in OTHER_PICTURES:
                skipped[suffix] += 1


def hold_out(paths: Sequence[str], cfg: DataConfig, root: str, what: str = "image") -> dict[Split, list[str]]:
    """Both splits, `data.holdout` of the paths held out. The hash of a path decides, so that a new file moves no other.

    The hash leaves out what `data.group` matches. Neither split is empty: the paths with the lowest hash are always
    held out, those with the highest never.

    Raises:
      InputError: `data.group` is no regular expression, or all paths have the same hash.
    """

    def rank(path: str) -> float:
        name = name_bytes(group_name(path, cfg))
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") / 2**64

    ranks = {path: rank(path) for path in paths}
    lowest, highest = min(ranks.values()), max(ranks.values())
    alike = f" whose names differ without data.group {cfg.group!r}" if cfg.group else ""
    require(lowest < highest, "data.source", f"{root!r} has one {what}{alike}; holding some out needs at least two")
    held_out = {path for path, at in ranks.items() if at == lowest or at < min(cfg.holdout, highest)}
    return {"train": sorted(ranks.keys() - held_out), "eval": sorted(held_out)}


def group_name(path: str, cfg: DataConfig) -> str:
    """A path without what `data.group` matches.

    Raises:
      InputError: that is no regular expression.
    """
    try:
        return re.sub(cfg.group, "", path) if cfg.group else path
    except re.error as error:
        raise InputError(f"data.group: {cfg.group!r} is no regular expression: {error}") from None


def name_bytes(path: str) -> bytes:
    """The same bytes for the same name on every file system."""
    # file systems differ in whether they return a name in composed or in decomposed Unicode
    return unicodedata.normalize("NFC", path).encode("utf-8", "surrogateescape")
