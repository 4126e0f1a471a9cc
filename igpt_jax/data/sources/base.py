"""What every source of images is: records by index, and what is known of all of them without reading pixels."""

from __future__ import annotations

import copy
import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal, Self, TypedDict

import numpy as np

from igpt_jax.errors import InputError

Split = Literal["train", "eval"]
Selection = Literal["train", "eval", "all"]
"""Which records of a source: those of one split, or of both."""

HASHED = 64
"""Records, at most, whose pixels the default digest covers."""


class Record(TypedDict):
    """One image with its class."""

    image: np.ndarray
    """uint8 [y, x, c] of any height and width, c = data.channels; of a clip [l, y, x, c]."""
    label: int
    """-1 for no label."""


class Source(ABC):
    """A sequence of records with random access. One of your own needs `__len__` and `read`.

    It must be safe to read from many threads, and picklable where compute.workers is above 0.
    """

    class_names: tuple[str, ...] = ()
    """The name of each label; empty if there are no labels."""
    frames: int | None = None
    """Of a record of clips, set by the run: None asks for single frames as pictures. Sources of pictures ignore it."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, i: int, rng: np.random.Generator | None) -> Record:
        """Record i. `rng` draws where a clip begins (`window_start`); None, while evaluating, takes its middle."""

    @functools.cached_property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int [n], -1 for no label, or where images would have to be read for it."""
        return np.full(len(self), -1)

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """int [n]: variants of one picture share a number. Numbers of `group_hash` are hashes already."""
        return np.arange(len(self))

    @functools.cached_property
    def digest(self) -> str:
        """Of what the source holds, in order: a run continues only on the same. Here of its class, its size, labels,
        groups, and the pixels of a few records; a source that is named by files may use their names, which is faster.
        """
        kind = type(self)
        content = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {len(self)} {self.class_names}".encode())
        for i in np.unique(np.linspace(0, len(self) - 1, min(HASHED, len(self))).round().astype(int)):
            record = self.read(int(i), None)
            content.update(f"{record['image'].shape} {record['label']}".encode())
            content.update(np.ascontiguousarray(record["image"]).data)
        content.update(self.labels.astype("<i4").tobytes() + self.groups.astype("<u8").tobytes())
        return content.hexdigest()

    def with_frames(self, frames: int | None) -> Self:
        """The same source with clips of this many frames."""
        other = copy.copy(self)
        other.frames = frames
        return other


def check_source(source: object, half: str) -> Source:
    """The source; InputError if an object that was passed as one is none, or holds nothing."""
    if not isinstance(source, Source):
        named = type(source).__name__
        raise InputError(f"source: {half} must derive from igpt_jax.data.sources.Source; got {named}")
    if not len(source):
        raise InputError(f"data.source: {source.name} holds no record")
    return source


def class_counts(source: Source) -> tuple[int, ...]:
    """How many records each class has; empty without classes, or where that is not known."""
    known = source.labels[source.labels >= 0]
    if not source.class_names or not len(known):
        return ()
    return tuple(np.bincount(known, minlength=len(source.class_names)).tolist())


def group_hash(names: Iterable[str]) -> np.ndarray:
    """uint64 [n]: numbers that only equal names share."""
    digests = [hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names]
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)


def window_start(length: int, span: int, rng: np.random.Generator | None) -> int:
    """Where a window of `span` frames begins in a clip of `length`: uniform, or without `rng` in the middle.

    InputError if the clip is too short; the message is the end of a sentence about it.
    """
    room = length - span
    if room < 0:
        raise InputError(f"has {length} frames, but {span} are needed")
    return room // 2 if rng is None else int(rng.integers(room + 1))


class ArraySource(Source):
    """Grey images uint8 [n, y, x] and labels int [n] in memory. Each record repeats the grey in `channels` channels."""

    def __init__(
        self, name: str, images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], channels: int
    ) -> None:
        self.name, self.class_names = name, class_names
        self._images, self.labels, self._channels = images, labels, channels
        content = hashlib.sha256(repr(images.shape).encode())
        content.update(np.ascontiguousarray(images).data)
        content.update(labels.astype("<i4").data)
        self.digest = content.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def read(self, i: int, rng: np.random.Generator | None) -> Record:
        return Record(image=np.repeat(self._images[i][..., None], self._channels, axis=2), label=int(self.labels[i]))


class Subset(Source):
    """Some records of a source."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices
        self.name, self.class_names = source.name, source.class_names
        chosen = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()[:16]
        self.digest = f"{len(indices)} ({chosen}) of {source.digest}"
        self.labels, self.groups = source.labels[indices], source.groups[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, i: int, rng: np.random.Generator | None) -> Record:
        return self.source.read(int(self.indices[i]), rng)

    def with_frames(self, frames: int | None) -> Subset:
        return Subset(self.source.with_frames(frames), self.indices)


class Joined(Source):
    """The records of one source after those of another; both have the same classes."""

    def __init__(self, first: Source, second: Source) -> None:
        self.parts, self.name, self.class_names = (first, second), first.name, first.class_names
        self.digest = f"{first.digest} then {second.digest}"
        self.labels = np.concatenate([first.labels, second.labels])
        hashed = first.groups.dtype == np.uint64 == second.groups.dtype
        apart = 0 if hashed or not len(first) else first.groups.max() + 1
        self.groups = np.concatenate([first.groups, second.groups + apart])

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def read(self, i: int, rng: np.random.Generator | None) -> Record:
        first, second = self.parts
        return first.read(i, rng) if i < len(first) else second.read(i - len(first), rng)

    def with_frames(self, frames: int | None) -> Joined:
        return Joined(*(part.with_frames(frames) for part in self.parts))


def split_validation(source: Source, share: float) -> tuple[Source, Source]:
    """The source without a share of its records, and those records (`validation_mask`); both in the source's order."""
    aside = validation_mask(source, share)
    return Subset(source, np.flatnonzero(~aside)), Subset(source, np.flatnonzero(aside))


def validation_mask(source: Source, share: float) -> np.ndarray:
    """bool [n], which records are set aside, so that nothing is chosen on the held-out ones.

    A hash of its group decides for each record, so the two halves are the same in every run, and a group is never
    divided: whole groups are taken until at least `share` of the records are set aside. InputError if one of the two
    halves would be empty.
    """
    numbers, group = np.unique(source.groups, return_inverse=True)
    ranks = numbers if numbers.dtype == np.uint64 else group_hash(map(str, numbers.tolist()))
    order = np.argsort(ranks, kind="stable")
    before = np.cumsum(np.bincount(group, minlength=len(numbers))[order])
    taken = order[np.concatenate([[0], before[:-1]]) < share * len(source)] if len(numbers) else order
    chosen = np.isin(group, taken)
    if not 0 < chosen.sum() < len(source):
        raise InputError(
            f"data.source: {source.name} has too few groups of images ({len(numbers)}) to set {share:.0%} aside for "
            "validation"
        )
    return chosen
