"""`clips:PATH`: the clips of a folder, with subfolders as classes.

A clip is a file (mp4, mov, WebM, mkv, GIF) or a folder of at least two pictures whose names end in numbers. The splits
are those of `folder:PATH`: `train/` and `val/` where both exist, else `data.holdout` of the clips by their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from igpt_jax.config import DataConfig
from igpt_jax.data.sources.base import Selection, window_start
from igpt_jax.data.sources.paths import NOT_DATA, PathSource, walk
from igpt_jax.data.video import CLIP_SUFFIXES, FRAME_SUFFIXES, load_clip, numbered_pictures, require_av


class ClipFolder(PathSource):
    """Clips of any length; InputError also if PyAV is missing."""

    what, formats = "clip", f"{', '.join(sorted(CLIP_SUFFIXES))} and folders of numbered pictures"

    def __init__(self, cfg: DataConfig, split: Selection, where: str) -> None:
        super().__init__(cfg, split, where)
        if any(not path.endswith("/") for path in self._paths):
            require_av(f"data.source: {cfg.source}")

    def _list(self, folder: Path, skipped: Counter[str]) -> Iterator[str]:
        for prefix, names in walk(folder):
            if prefix and len(numbered_pictures(names)) > 1:
                yield prefix
            for name in names:
                suffix = Path(name).suffix.lower()
                if suffix in CLIP_SUFFIXES:
                    yield prefix + name
                elif suffix not in FRAME_SUFFIXES | NOT_DATA:
                    skipped[suffix] += 1

    def _load(self, file: str, rng: np.random.Generator | None) -> np.ndarray:
        cfg = self._cfg

        def start(length: int, span: int) -> int:
            return window_start(length, span, rng)

        clip = load_clip(file, self.frames or 1, cfg.frame_step, cfg.channels, start)
        return clip if self.frames else clip[0]
