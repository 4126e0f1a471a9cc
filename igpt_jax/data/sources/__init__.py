"""Where images come from. `data.source` is KIND or KIND:WHERE, and each kind is one row of `SOURCES`.

A source is a sequence of records with uint8 pixels as they were stored. Resizing and augmentation are in
`data.transforms`, order and batches in `data.pipeline`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from igpt_jax.config import DataConfig
from igpt_jax.data.sources.base import ArraySource, Joined, Record, Selection, Source, Split, Subset, window_start
from igpt_jax.data.sources.digits import MovingDigits, open_digits
from igpt_jax.data.sources.idx import open_idx
from igpt_jax.data.sources.paths import ClipFolder, FolderSource, split_folders
from igpt_jax.data.sources.tfds import TfdsSource
from igpt_jax.data.sources.tokens import TokenSource
from igpt_jax.errors import InputError, nearest
from igpt_jax.files import local_path

__all__ = [
    "SOURCES",
    "ArraySource",
    "Kind",
    "Opener",
    "Record",
    "Selection",
    "Source",
    "Split",
    "Subset",
    "absolute_source",
    "open_source",
    "register_source",
    "window_start",
]

Opener = Callable[[DataConfig, Split, str], Source]
"""(the data settings, which split, what follows the colon in `data.source` or "") -> the source."""


class Kind(NamedTuple):
    """A kind of source."""

    open: Opener
    path: bool = False
    """Whether what follows the colon is a path, which a run stores absolute."""
    open_all: Callable[[DataConfig, Selection, str], Source] | None = None
    """Opens, with split `all`, every file of a folder that holds no split folders, in the order of their names. Other
    kinds join their splits."""


SOURCES: dict[str, Kind] = {
    "clips": Kind(ClipFolder, True, ClipFolder),
    "digits": Kind(open_digits),
    "folder": Kind(FolderSource, True, FolderSource),
    "idx": Kind(open_idx, True),
    "moving_digits": Kind(MovingDigits),
    "tfds": Kind(TfdsSource),
    "tokens": Kind(TokenSource, True),
}
"""Every kind of source. Add one of your own with `register_source`."""


def register_source(kind: str, opener: Opener, path: bool = False) -> None:
    """Adds a kind of source, so that `data.source` may be `KIND` or `KIND:WHERE`.

    An experiment file calls this at import. Where `compute.workers` > 0 the source is pickled, so its class must be
    defined at the top level of a module. ValueError if the kind has a colon, or another opener has it.
    """
    if not kind or ":" in kind:
        raise ValueError(f"a kind of source is a name without a colon, not {kind!r}")
    if SOURCES.setdefault(kind, Kind(opener, path)).open is not opener:
        raise ValueError(f"a source of kind {kind!r} exists already")


def absolute_source(source: str) -> str:
    """`data.source` with its path, if its kind has one, made absolute: the same from everywhere."""
    kind, _, where = source.partition(":")
    if not where or kind not in SOURCES or not SOURCES[kind].path:
        return source
    return f"{kind}:{local_path(os.path.expanduser(where), 'data.source').absolute()}"


def open_source(cfg: DataConfig, split: Selection, frames: int | None = None) -> Source:
    """Opens one split of `cfg.source`, or every record of both; the module of each kind says how it finds the splits.

    Split `all` is the records of `train`, then those of `eval`; of a folder without split folders, by file name.
    `frames` are those of a record of clips; None reads single frames as pictures.
    """
    name, _, where = absolute_source(cfg.source).partition(":")
    if name not in SOURCES:
        raise InputError(
            f"data.source: {cfg.source!r} is of no known kind{nearest(name, SOURCES)}; there are {', '.join(SOURCES)}, "
            "and those of plugins"
        )
    kind = SOURCES[name]
    if split != "all":
        source = kind.open(cfg, split, where)
    elif kind.open_all is not None and where and split_folders(Path(where)) is None:
        source = kind.open_all(cfg, "all", where)
    else:
        source = Joined(kind.open(cfg, "train", where), kind.open(cfg, "eval", where))
    return source.with_frames(frames)
