"""What every source of pictures has in common."""

from __future__ import annotations

from typing import Literal, Protocol, TypedDict

import numpy as np

Split = Literal["train", "eval"]


class Record(TypedDict):
    """One picture: `image` uint8 [y, x, c] of any size with c = data.channels, `label` int or -1 for none."""

    image: np.ndarray
    label: int


class Source(Protocol):
    """A picklable, thread-safe sequence of records with random access."""

    @property
    def name(self) -> str: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def digest(self) -> str:
        """sha256 of what the source holds and in which order, cheap to come by; not of the pixels in its files."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Record: ...
