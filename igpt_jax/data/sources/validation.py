"""Validation images: a share of the training images, set aside so that nothing is chosen on the held-out ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from igpt_jax.data.sources.base import Joined, Source, Subset
from igpt_jax.errors import require


@runtime_checkable
class Grouped(Protocol):
    """A source that knows which of its records belong together, as variants of one picture do."""

    def group(self, i: int) -> str:
        """The name of record i's group."""
        ...


def set_aside(source: Source, share: float) -> tuple[Source, Source]:
    """The source without a share of its records, and those records (`choose_aside`); both in the source's order."""
    aside = choose_aside(source, share)
    return Subset(source, np.flatnonzero(~aside)), Subset(source, np.flatnonzero(aside))


def choose_aside(source: Source, share: float) -> np.ndarray:
    """bool [n], which records are set aside.

    A hash of its group decides for each record, or of its number where the source has no groups. So the two halves are
    the same in every run, and a group is never divided.

    Args:
      share: of the records, above 0 and below 1. Whole groups are taken until at least that many are set aside.

    Raises:
      InputError: one of the two halves would be empty.
    """
    groups: dict[str, list[int]] = {}
    group = _grouping(source) or str
    for i in range(len(source)):
        groups.setdefault(group(i), []).append(i)
    chosen, count = np.zeros(len(source), bool), 0
    for name in sorted(groups, key=_hash):
        if count >= share * len(source):
            break
        chosen[groups[name]] = True
        count += len(groups[name])
    few = f"{source.name} has too few groups of images ({len(groups)}) to set {share:.0%} aside for validation"
    require(0 < count < len(source), "data.source", few)
    return chosen


def group_numbers(source: Source) -> np.ndarray:
    """int [n]: records of one group have the same number. Where the source has no groups, each record is one."""
    if (group := _grouping(source)) is None:
        return np.arange(len(source))
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(group(i), len(numbers)) for i in range(len(source))])


def _grouping(source: Source) -> Callable[[int], str] | None:
    """Number of a record -> its group; None where the source has no groups."""
    match source:
        case Subset():
            group = _grouping(source.source)
            return group and (lambda i: group(int(source.indices[i])))
        case Joined():
            n, (first, second) = len(source.parts[0]), (_grouping(part) for part in source.parts)
            return first and second and (lambda i: first(i) if i < n else second(i - n))
        case Grouped():
            return source.group
    return None


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
