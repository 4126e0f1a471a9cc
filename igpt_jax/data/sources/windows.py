"""Windows: the frames of a clip that a run reads. Clips have any length; a model reads a fixed number of frames."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from igpt_jax.data.sources.base import Record
from igpt_jax.errors import InputError


@runtime_checkable
class ClipSource(Protocol):
    """A sequence of clips. Must be picklable, and safe to read from many threads."""

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
    def window(self, i: int, frames: int, rng: np.random.Generator | None) -> Record:
        """Some frames of clip i, every `data.frame_step`-th: image uint8 [frames, y, x, c].

        Args:
          rng: draws where the window begins (`window_start`); None takes the middle of the clip.

        Raises:
          InputError: the clip cannot be read, or is too short.
        """
        ...


class Windows:
    """The clips of a source as records: `[i]` is the middle of clip i, and `draw(i, rng)` begins at a random frame.

    Args:
      frames: in a record, whose image is uint8 [frames, y, x, c]. None for single frames as pictures, uint8 [y, x, c].
    """

    def __init__(self, source: ClipSource, frames: int | None) -> None:
        self.name, self.class_names, self.digest = source.name, source.class_names, source.digest
        self._source, self._frames = source, frames

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Record:
        return self._read(i, None)

    def draw(self, i: int, rng: np.random.Generator) -> Record:
        """A window of clip i that begins at a random frame."""
        return self._read(i, rng)

    def _read(self, i: int, rng: np.random.Generator | None) -> Record:
        record = self._source.window(i, self._frames or 1, rng)
        return record if self._frames else Record(image=record["image"][0], label=record["label"])


def window_start(length: int, span: int, rng: np.random.Generator | None) -> int:
    """Where a window of `span` frames begins in a clip of `length`: any place alike, or without `rng` in the middle.

    Raises:
      InputError: the clip is too short; the message is the end of a sentence about it.
    """
    room = length - span
    if room < 0:
        raise InputError(f"has {length} frames, but {span} are needed")
    return room // 2 if rng is None else int(rng.integers(room + 1))
