"""igpt video: new clips, clips and pictures that go on, and frames between two others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from igpt_jax.cli.common import check_at_least_one
from igpt_jax.cli.draw import DrawCommand
from igpt_jax.cli.output import Result
from igpt_jax.errors import InputError
from igpt_jax.files import local_path

if TYPE_CHECKING:
    from igpt_jax.config import Config
    from igpt_jax.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class Video(DrawCommand):
    """Draw clips: sample new ones, complete clips or pictures, or the frames between two."""

    task = "clips"
    file_name = "video-seed{}.gif"
    suffixes = (".gif", ".mp4", ".png", ".npy")
    action: tyro.conf.Positional[Literal["sample", "complete", "between"]]
    """sample: new clips. complete: go on with clips or pictures. between: the frames from the first file's to the last
    one's, with a model of any order."""
    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Clips (mp4, WebM, GIF, folders of numbered pictures) or pictures, of any size; of clips that are longer than the
    model's the last frames are read. They are brought to the model's grid."""
    frames: int | None = None
    """sample: frames of a clip; complete: frames to draw. By default as many as the model has, or fills them up to."""
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    """sample: how many clips (4); complete and between: how many a file (1)."""
    keep: int | None = None
    """Frames that are read when the model's are full and the window moves on; by default half of them."""
    fps: float = 8.0
    """Frames a second of a .gif or .mp4."""
    out: Path | None = None
    """.gif or .mp4: all clips beside each other; .png: a row a clip; .npy: uint8 [n, frames, Y, X, C]; a new directory:
    one GIF a clip. By default video-seed<seed>.gif in the workdir."""

    def check(self) -> None:
        fits, takes = {
            "sample": (not self.files, "no file"),
            "complete": (bool(self.files), "at least one file"),
            "between": (len(self.files) == 2, "two files, of the first and the last frames"),
        }[self.action]
        if not fits:
            raise InputError(f"video {self.action}: takes {takes}, not {len(self.files)}")
        if self.action == "between" and (self.frames is not None or self.keep is not None):
            raise InputError("video between: fills the model's frames; leave out --frames and --keep")
        check_at_least_one(n=self.n, frames=self.frames, keep=self.keep)
        if not 0.1 <= self.fps <= 100:
            raise InputError(f"--fps {self.fps:g}: must be in 0.1..100")

    def read(self, cfg: Config) -> list[np.ndarray]:
        """The last frames of each file on the model's grid: uint8 [l, Y, X, C] each."""
        from igpt_jax.data.video import load_last_frames
        from igpt_jax.datasets import preprocess_for_eval

        window = cfg.model.n_frame
        most = window - 1 if self.action == "complete" else max(1, (window - 1) // 2)
        loaded = [load_last_frames(local_path(path, "video"), most, cfg.data) for path in self.files]
        clips = [preprocess_for_eval(cfg, [clip])[0] for clip in loaded]
        lengths = sorted({len(clip) for clip in clips})
        if self.action == "complete" and len(lengths) > 1:
            counts = ", ".join(map(str, lengths))
            raise InputError(f"video complete: the files have different numbers of frames ({counts}); one by one")
        return clips

    def draw(self, weights: Pretrained, given: list[np.ndarray]) -> Result:
        from igpt_jax import continue_clip, in_between, sample_clips
        from igpt_jax.viz import clip_sheet

        model, window = self.request(weights), weights.config.model.n_frame
        lengths, options = [len(clip) for clip in given], dict[str, Any](sampler=self.sampler, draft=weights.draft)
        if self.action == "sample":
            drawn = sample_clips(*model, self.n or 4, self.frames, keep=self.keep, **options)
            titles = []
        elif self.action == "complete":
            frames = self.frames or window - lengths[0]
            drawn = continue_clip(*model, np.stack(given), frames, self.n or 1, keep=self.keep, **options)
            titles = [("known", lengths[0]), ("drawn", frames)]
        else:
            drawn = in_between(*model, given[0][None], given[1][None], self.n or 1, **options)
            titles = [("known", lengths[0]), ("drawn", window - sum(lengths)), ("known", lengths[1])]
        clips = drawn.reshape(-1, *drawn.shape[-4:])
        names = [f"{i:0{len(str(len(clips) - 1))}d}" for i in range(len(clips))]
        sheet = lambda: clip_sheet(clips, titles)  # noqa: E731
        return Result(clips, names, sheet, clips.shape, {"action": self.action}, fps=self.fps)
