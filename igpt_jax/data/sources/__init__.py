"""Where images come from. `data.source` is KIND or KIND:WHERE, and each kind is one row of `SOURCES`.

A source is a sequence of records with uint8 pixels as they were stored. Resizing and augmentation are in
`data.transforms`, order and batches in `data.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable

from igpt_jax.config import DataConfig
from igpt_jax.data.sources.base import ArraySource, Record, Source, Split
from igpt_jax.data.sources.digits import open_digits
from igpt_jax.data.sources.folder import FolderSource
from igpt_jax.data.sources.idx import open_idx
from igpt_jax.data.sources.tfds import TfdsSource
from igpt_jax.errors import InputError, nearest

__all__ = ["SOURCES", "ArraySource", "Opener", "Record", "Source", "Split", "open_source", "register_source"]

Opener = Callable[[DataConfig, Split, str], Source]
"""(the data settings, which split, what follows the colon in `data.source` or "") -> the source."""

SOURCES: dict[str, Opener] = {
    "digits": open_digits,
    "folder": FolderSource,
    "idx": open_idx,
    "tfds": TfdsSource,
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


def open_source(cfg: DataConfig, split: Split) -> Source:
    """Opens one split of `cfg.source`; the module of each kind says how it finds the two splits.

    Raises:
      InputError: there is no such kind; or the source is missing, empty or damaged.
    """
    kind, _, where = cfg.source.partition(":")
    if kind not in SOURCES:
        raise InputError(
            f"data.source: {cfg.source!r} is of no known kind{nearest(kind, SOURCES)}; there are {', '.join(SOURCES)}, "
            "and those of a file named with --plugin"
        )
    return SOURCES[kind](cfg, split, where)
