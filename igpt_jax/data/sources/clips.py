"""`clips:PATH`: the clips of a folder, with subfolders as classes.

A clip is a file (mp4, mov, WebM, mkv, GIF) or a folder of at least two pictures whose names end in numbers. The splits
are those of `folder:PATH`: `train/` and `val/` where both exist, else `data.holdout` of the clips by their names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from igpt_jax.config import DataConfig
from igpt_jax.data.sources.base import Record, Split
from igpt_jax.data.sources.folder import hold_out, name_bytes, split_folders
from igpt_jax.data.sources.unreadable import Unreadable
from igpt_jax.data.sources.windows import window_start
from igpt_jax.data.video import CLIP_SUFFIXES, load_clip, numbered_pictures, require_av
from igpt_jax.errors import InputError, require

_FORMATS = f"(read are {', '.join(sorted(CLIP_SUFFIXES))} and folders of numbered pictures)"


class ClipFolder:
    """The clips of one split in the order of their names.

    In place of a clip that cannot be read, or is too short, the record is that of the next readable one.

    Raises:
      InputError: there is no such folder, it has no clip, or PyAV is missing. Later, from reading a window: no clip can
        be read, or more than `data.max_unreadable` of them could not.
    """

    def __init__(self, cfg: DataConfig, split: Split, where: str) -> None:
        require(bool(where), "data.source", "name the folder: clips:PATH")
        root = Path(where)
        require(root.is_dir(), "data.source", f"there is no folder {where!r}")
        folders = split_folders(root) or {split: root}
        try:
            listed = {name: sorted(_list_clips(folder, "", ())) for name, folder in folders.items()}
        except OSError as error:
            raise InputError(f"data.source: {error}") from None
        paths = listed[split]
        self.name, self._root = cfg.source, str(folders[split])
        require(bool(paths), "data.source", f"no clip in {self._root!r} {_FORMATS}")
        if any(not path.endswith("/") for path in paths):
            require_av(f"data.source: {cfg.source}")
        classes = {parent for half in listed.values() for path in half if (parent := _class_of(path))}
        self.class_names = tuple(sorted(classes))
        self._labels = {name: i for i, name in enumerate(self.class_names)}
        self._unreadable = Unreadable("clips", self._root, len(paths), cfg.max_unreadable)
        if len(folders) == 1:
            paths = hold_out(paths, cfg, self._root, "clip")[split]
        self._paths, self._cfg = paths, cfg
        self.digest = hashlib.sha256(b"".join(name_bytes(path) + b"\0" for path in paths)).hexdigest()

    @property
    def unreadable(self) -> int:
        """How many clips could not be read so far. Each worker process has its own count."""
        return len(self._unreadable)

    def __len__(self) -> int:
        return len(self._paths)

    def window(self, i: int, frames: int, rng: np.random.Generator | None) -> Record:
        """Some frames of clip i, as `ClipSource` says."""
        cfg, n = self._cfg, len(self._paths)
        for path in (self._paths[j % n] for j in range(i, i + n)):
            file = os.path.join(self._root, path)
            try:
                clip = load_clip(
                    file, frames, cfg.frame_step, cfg.channels, lambda length, span: window_start(length, span, rng)
                )
            except InputError as error:
                self._unreadable.add(path, error)
                continue
            return Record(image=clip, label=self._labels.get(_class_of(path), -1))
        raise InputError(f"data.source: none of the {n} clips in {self._root!r} can be read")


def _class_of(path: str) -> str:
    """The first folder above a clip, or nothing."""
    return path.rstrip("/").rpartition("/")[0].partition("/")[0]


def _list_clips(folder: Path, prefix: str, parents: tuple[Path, ...]) -> Iterator[str]:
    """Relative paths of clips with forward slashes, without hidden files; those of folders of pictures end in one."""
    parents += (folder.resolve(),)
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    if prefix and len(numbered_pictures([entry.name for entry in visible])) > 1:
        yield prefix
    for entry in visible:
        path = folder / entry.name
        if entry.is_dir():
            if path.resolve() not in parents:  # else a link to a folder above itself
                yield from _list_clips(path, f"{prefix}{entry.name}/", parents)
        elif path.suffix.lower() in CLIP_SUFFIXES and (entry.is_file() or entry.is_symlink()):
            yield prefix + entry.name
