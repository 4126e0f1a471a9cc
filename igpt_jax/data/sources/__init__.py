"""Where images come from. `data.source` is KIND or KIND:WHERE, and each kind is one row of `SOURCES`.

A source is a sequence of records with uint8 pixels as they were stored. Resizing and augmentation are in
`data.transforms`, order and batches in `data.pipeline`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from igpt_jax.config import DataConfig
from igpt_jax.data.sources.base import ArraySource, Joined, Record, Selection, Source, Split, Subset
from igpt_jax.data.sources.clips import ClipFolder
from igpt_jax.data.sources.digits import open_digits
from igpt_jax.data.sources.folder import FolderSource, open_whole_folder
from igpt_jax.data.sources.idx import open_idx
from igpt_jax.data.sources.moving_digits import MovingDigits
from igpt_jax.data.sources.tfds import TfdsSource
from igpt_jax.data.sources.tokens import TokenSource
from igpt_jax.data.sources.windows import ClipSource, Windows
from igpt_jax.errors import InputError, nearest
from igpt_jax.files import local_path

__all__ = [
    "SOURCES",
    "ArraySource",
    "ClipSource",
    "Opener",
    "Record",
    "Selection",
    "Source",
    "Split",
    "Subset",
    "absolute_source",
    "open_source",
    "register_source",
]

Opener = Callable[[DataConfig, Split, str], Source | ClipSource]
"""(the data settings, which split, what follows the colon in `data.source` or "") -> the source."""

SOURCES: dict[str, Opener] = {
    "clips": ClipFolder,
    "digits": open_digits,
    "folder": FolderSource,
    "idx": open_idx,
    "moving_digits": MovingDigits,
    "tfds": TfdsSource,
    "tokens": TokenSource,
}
"""Every kind of source. Add one of your own with `register_source`."""


def register_source(kind: str, opener: Opener) -> None:
    """Adds a kind of source, so that `data.source` may be `KIND` or `KIND:WHERE`.

    An experiment file calls this at import. Where `compute.workers` > 0 the source is pickled, so its class must be
    defined at the top level of a module.

    Raises:
      ValueError: the kind has a colon or is empty, or another opener has it.
    """
    if not kind or ":" in kind:
        raise ValueError(f"a kind of source is a name without a colon, not {kind!r}")
    if SOURCES.setdefault(kind, opener) is not opener:
        raise ValueError(f"a source of kind {kind!r} exists already")


def absolute_source(source: str) -> str:
    """`data.source` with its path made absolute (folder, clips, idx, tokens): the same from everywhere."""
    kind, _, where = source.partition(":")
    if kind not in ("folder", "clips", "idx", "tokens") or not where:
        return source
    return f"{kind}:{local_path(os.path.expanduser(where), 'data.source').absolute()}"


def open_source(cfg: DataConfig, split: Selection, frames: int | None = None) -> Source:
    """Opens one split of `cfg.source`, or every record of both; the module of each kind says how it finds the splits.

    Args:
      split: `all` for the records of `train`, then those of `eval`; of a folder without split folders, by file name.
      frames: of a record from a source of clips; None for single frames as pictures.

    Raises:
      InputError: there is no such kind; or the source is missing, empty or damaged.
    """
    kind, _, where = absolute_source(cfg.source).partition(":")
    if kind not in SOURCES:
        raise InputError(
            f"data.source: {cfg.source!r} is of no known kind{nearest(kind, SOURCES)}; there are {', '.join(SOURCES)}, "
            "and those of a file named with --plugin"
        )
    if split == "all":
        if SOURCES[kind] is FolderSource:
            return open_whole_folder(cfg, where)
        return Joined(open_source(cfg, "train", frames), open_source(cfg, "eval", frames))
    source = SOURCES[kind](cfg, split, where)
    return Windows(source, frames) if isinstance(source, ClipSource) else source
