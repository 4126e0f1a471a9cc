"""`folder:PATH`: the image files of a folder, with subfolders as classes.

The splits are the folders `train/` and `val/` (or `valid/`, `validation/`, `test/`) where both exist. Otherwise
`data.holdout` of the images are held out, by a hash of what `data.group` leaves of each file name. The log counts
files in formats not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from igpt_jax.config import DataConfig
from igpt_jax.data.reading import FORMATS, SUFFIXES, load_image
from igpt_jax.data.sources.base import Selection
from igpt_jax.data.sources.paths import NOT_DATA, PathSource, walk


class FolderSource(PathSource):
    """Images of any size; InputError also if none of them can be read."""

    what, formats = "image", ", ".join(FORMATS)

    def __init__(self, cfg: DataConfig, split: Selection, where: str) -> None:
        super().__init__(cfg, split, where)
        self.read(0, None)  # raises if no image can be read

    def _list(self, folder: Path, skipped: Counter[str]) -> Iterator[str]:
        for prefix, names in walk(folder):
            for name in names:
                suffix = Path(name).suffix.lower()
                if suffix in SUFFIXES:
                    yield prefix + name
                elif suffix not in NOT_DATA:
                    skipped[suffix] += 1

    def _load(self, file: str, rng: np.random.Generator | None) -> np.ndarray:
        return load_image(file, self._cfg.channels)
