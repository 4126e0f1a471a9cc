"""What every source of images has in common."""

from __future__ import annotations

import hashlib
from typing import Literal, Protocol, TypedDict, runtime_checkable

import numpy as np

Split = Literal["train", "eval"]
Selection = Literal["train", "eval", "all"]
"""Which records of a source: those of one split, or of both."""


class Record(TypedDict):
    """One image with its class."""

    image: np.ndarray
    """uint8 [y, x, c] of any height and width, c = data.channels; of a clip [l, y, x, c]."""
    label: int
    """-1 for no label."""


class Source(Protocol):
    """A sequence of records with random access. Must be picklable, and safe to read from many threads."""

    @property
    def name(self) -> str: ...
    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label; empty if there are no labels."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of what the source holds, in order. It may use names instead of pixels, so that it is fast."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Record: ...


@runtime_checkable
class Labelled(Protocol):
    """A source that knows all labels without reading images."""

    @property
    def labels(self) -> np.ndarray:
        """int [n], -1 for no label."""
        ...


def labels_of(source: Source) -> np.ndarray | None:
    """int [n]: the label of every record, -1 for none; None where images would have to be read for it."""
    match source:
        case Subset():
            labels = labels_of(source.source)
            return None if labels is None else labels[source.indices]
        case Joined():
            halves = [labels_of(part) for part in source.parts]
            return None if any(labels is None for labels in halves) else np.concatenate(halves)  # pyright: ignore
        case Labelled():
            return source.labels
    return None


def class_counts(source: Source) -> tuple[int, ...]:
    """How many records each class has; empty without classes, or where that is not known."""
    labels = labels_of(source)
    if labels is None or not source.class_names:
        return ()
    return tuple(np.bincount(labels[labels >= 0], minlength=len(source.class_names)).tolist())


class ArraySource:
    """Grey images uint8 [n, y, x] and labels int [n] in memory. Each record repeats the grey in `channels` channels."""

    def __init__(
        self, name: str, images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], channels: int
    ) -> None:
        self.name = name
        self.class_names = class_names
        self._images, self.labels, self._channels = images, labels, channels
        content = hashlib.sha256(repr(images.shape).encode())
        content.update(np.ascontiguousarray(images).data)
        content.update(labels.astype("<i4").data)
        self.digest = content.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> Record:
        return Record(image=np.repeat(self._images[i][..., None], self._channels, axis=2), label=int(self.labels[i]))


class Subset:
    """Some records of a source."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices
        self.name, self.class_names = source.name, source.class_names
        chosen = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()[:16]
        self.digest = f"{len(indices)} ({chosen}) of {source.digest}"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Record:
        return self.source[int(self.indices[i])]


class Joined:
    """The records of one source after those of another; both have the same classes."""

    def __init__(self, first: Source, second: Source) -> None:
        self.name, self.class_names = first.name, first.class_names
        self.digest = f"{first.digest} then {second.digest}"
        self.parts = first, second

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, i: int) -> Record:
        first, second = self.parts
        return first[i] if i < len(first) else second[i - len(first)]
