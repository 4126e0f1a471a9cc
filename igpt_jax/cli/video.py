"""igpt video: new clips, clips and pictures that go on, and frames between two others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from igpt_jax.cli.common import Inline, JoinedCommand, ModelArgs, SamplerArgs, check_class_dropout
from igpt_jax.cli.output import file_type, png_text
from igpt_jax.errors import InputError
from igpt_jax.files import local_path

if TYPE_CHECKING:
    from igpt_jax.config import Config, SamplerConfig
    from igpt_jax.pretrained import Pretrained

Titles = list[tuple[str, int]]
"""(what frames are, how many of them), from the first one on."""


@dataclass(frozen=True, kw_only=True)
class Video(JoinedCommand):
    """Draw clips: sample new ones, complete clips or pictures, or the frames between two."""

    action: tyro.conf.Positional[Literal["sample", "complete", "between"]]
    """sample: new clips. complete: go on with clips or pictures. between: the frames from the first file's to the last
    one's, with a model of any order."""
    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Clips (mp4, WebM, GIF, folders of numbered pictures) or pictures, of any size; of clips that are longer than the
    model's the last frames are read. They are brought to the model's grid."""
    weights: Annotated[ModelArgs, Inline] = field(default_factory=ModelArgs)
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
    sampler: Annotated[SamplerArgs, Inline] = field(default_factory=SamplerArgs)

    def run(self) -> None:
        """Draws and writes."""
        self.check()
        out = check_clip_path(self.weights.result_path(self.out, f"video-seed{self.sampler.seed}.gif"))
        weights = self.weights.load()
        if weights.config.model.n_frame < 2:
            grid = weights.config.model.grid
            raise InputError(f"--model {self.weights.path}: model.grid {grid} is one of pictures, not of clips")
        sampler = self.sampler.over(weights.config.sampler)
        check_class_dropout(weights.config, None, sampler.guidance)  # clips are drawn without a class
        clips, titles = _ACTIONS[self.action](self, weights, sampler)
        settings = {"model": self.weights.path, "step": weights.step, "action": self.action, **asdict(sampler)}
        write_clips(out, clips, titles, self.fps, png_text(settings))

    def check(self) -> None:
        """Raises InputError if the options do not go together."""
        fits, takes = {
            "sample": (not self.files, "no file"),
            "complete": (bool(self.files), "at least one file"),
            "between": (len(self.files) == 2, "two files, of the first and the last frames"),
        }[self.action]
        if not fits:
            raise InputError(f"video {self.action}: takes {takes}, not {len(self.files)}")
        if self.action == "between" and (self.frames is not None or self.keep is not None):
            raise InputError("video between: fills the model's frames; leave out --frames and --keep")
        for name, value in (("-n", self.n), ("--frames", self.frames), ("--keep", self.keep)):
            if value is not None and value < 1:
                raise InputError(f"{name} {value}: must be at least 1")
        if not 0.1 <= self.fps <= 100:
            raise InputError(f"--fps {self.fps:g}: must be in 0.1..100")

    def read(self, cfg: Config, most: int) -> list[np.ndarray]:
        """The last frames of each file, at most `most`, on the model's grid: uint8 [l, Y, X, C] each."""
        from igpt_jax.data.video import load_last_frames
        from igpt_jax.datasets import preprocess_for_eval
        from igpt_jax.parallel.processes import raise_on_all, require_same

        with raise_on_all():
            clips = [
                preprocess_for_eval(cfg, [load_last_frames(local_path(path, "video"), most, cfg.data)])[0]
                for path in self.files
            ]
        require_same("the clips", hashlib.sha256(b"".join(clip.tobytes() for clip in clips)).hexdigest())
        return clips


def _sample(command: Video, weights: Pretrained, sampler: SamplerConfig) -> tuple[np.ndarray, Titles]:
    from igpt_jax import sample_clips

    model, params, palette = weights.model, weights.params, weights.colors
    n = 4 if command.n is None else command.n
    return sample_clips(model, params, palette, n, command.frames, sampler=sampler, keep=command.keep), []


def _complete(command: Video, weights: Pretrained, sampler: SamplerConfig) -> tuple[np.ndarray, Titles]:
    from igpt_jax import continue_clip

    window = weights.config.model.n_frame
    read = command.read(weights.config, window - 1)
    lengths = {len(clip) for clip in read}
    if len(lengths) > 1:
        counts = ", ".join(str(n) for n in sorted(lengths))
        raise InputError(f"video complete: the files have different numbers of frames ({counts}); give them one by one")
    known = lengths.pop()
    frames = command.frames or window - known
    drawn = continue_clip(
        weights.model,
        weights.params,
        weights.colors,
        np.stack(read),
        frames,
        command.n or 1,
        sampler=sampler,
        keep=command.keep,
    )
    return drawn.reshape(-1, *drawn.shape[2:]), [("known", known), ("drawn", frames)]


def _between(command: Video, weights: Pretrained, sampler: SamplerConfig) -> tuple[np.ndarray, Titles]:
    from igpt_jax import in_between

    model = weights.config.model
    most = max(1, (model.n_frame - 1) // 2)
    first, last = command.read(weights.config, most)
    drawn = in_between(
        weights.model, weights.params, weights.colors, first[None], last[None], command.n or 1, sampler=sampler
    )[0]
    missing = model.n_frame - len(first) - len(last)
    return drawn, [("known", len(first)), ("drawn", missing), ("known", len(last))]


_ACTIONS: dict[str, Callable[[Video, Pretrained, SamplerConfig], tuple[np.ndarray, Titles]]] = {
    "sample": _sample,
    "complete": _complete,
    "between": _between,
}


def check_clip_path(path: Path) -> Path:
    """`path`, if clips can be written to it; InputError if not."""
    if file_type(path) not in (".gif", ".mp4", ".png", ".npy", ""):
        raise InputError(f"--out {path}: must end in .gif, .mp4, .png or .npy, or be a directory for one GIF a clip")
    if not file_type(path) and path.exists() and not path.is_dir():
        raise InputError(f"--out {path}: is a file without .gif, .mp4, .png or .npy; name a new directory")
    if path.is_dir() and (file_type(path) or any(path.iterdir())):
        raise InputError(f"--out {path}: is a directory that holds something; name a file or a new directory")
    if path.suffix == ".mp4":
        from igpt_jax.data.video import require_av

        require_av(f"--out {path}")
    return path


def write_clips(path: Path, clips: np.ndarray, titles: Titles, fps: float, text: dict[str, str]) -> None:
    """Writes clips uint8 [n, L, Y, X, C] as `check_clip_path` says, on process 0, and prints where."""
    from igpt_jax.files import replace_file
    from igpt_jax.parallel.processes import on_process_zero
    from igpt_jax.viz import clip_sheet, save_animation, save_png

    def write() -> None:
        try:
            if path.suffix == ".png":
                save_png(path, clip_sheet(clips, titles), text)
            elif path.suffix == ".npy":
                with replace_file(path) as file:
                    np.save(file, clips)
            elif file_type(path):
                save_animation(path, clips, fps, text)
            else:
                for i in range(len(clips)):
                    save_animation(path / f"{i:0{len(str(len(clips) - 1))}d}.gif", clips[i : i + 1], fps, text)
        except OSError as error:
            raise InputError(f"--out {path}: {error.strerror}") from None

    on_process_zero(write)
    print(path)
