"""Clip files to uint8 frames, through PyAV. Files may be damaged or hostile: formats and sizes are bounded.

A clip is never read whole: its length comes from the file's header where it is there, decoding begins at the keyframe
before the first frame that is asked for, and ends with the last one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from igpt_jax.config import DataConfig
from igpt_jax.data.reading import MAX_PIXELS, SUFFIXES, load_image
from igpt_jax.errors import InputError, first_line

# The only demuxers that may read a user's file. FFmpeg has others, some of which open further files or addresses.
_DEMUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mp4", ".webm": "matroska", ".mkv": "matroska", ".gif": "gif"}
CLIP_SUFFIXES = frozenset(_DEMUXERS)
"""The names of clip files end so, in small or capital letters."""
FRAME_SUFFIXES = SUFFIXES - CLIP_SUFFIXES
"""The names of pictures that are frames of a clip end so."""

ChooseStart = Callable[[int, int], int]
"""(frames of the clip, frames from the first to the last one that is read) -> the first one. InputError if there are
too few; the message is the end of a sentence about the clip."""


def require_av(what: str) -> None:
    """Raises InputError, with the way out, if PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise InputError(f"{what} needs PyAV; pip install 'igpt_jax[video]'")


def load_clip(
    path: str | os.PathLike[str], frames: int, step: int, channels: Literal[1, 3], choose_start: ChooseStart
) -> np.ndarray:
    """Reads frames of an mp4, mov, WebM, mkv or GIF, or of a folder of numbered pictures: uint8 [frames, y, x, c].

    Transparent pixels of a GIF are white, rotated clips are turned upright, and colour becomes grey by ITU-R 601 luma.

    Args:
      step: every so many frames of the clip one is read.
      choose_start: where to begin.

    Raises:
      InputError: missing, not a clip of these formats, damaged, too short, frames of different sizes or of more than
        2**25 pixels; or PyAV is missing.
    """
    span = (frames - 1) * step + 1
    with _reading(path):
        if os.path.isdir(path):
            names = numbered_pictures(os.listdir(path))
            start = choose_start(len(names), span)
            pictures = [load_image(os.path.join(path, name), channels) for name in names[start : start + span : step]]
        else:
            pictures = _read_video(path, frames, step, channels, choose_start)
        sizes = sorted({f"{picture.shape[1]} x {picture.shape[0]}" for picture in pictures})
        if len(sizes) > 1:
            raise ValueError(f"its frames have different sizes ({', '.join(sizes)})")
        return np.stack(pictures)


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever decoders raise at a damaged file into one line that names it."""
    try:
        yield
    except InputError as error:
        named = str(path) in str(error)
        raise InputError(str(error) if named else f"{str(path)!r} {error}") from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{str(path)!r} cannot be read as a clip: {reason}") from None


def load_last_frames(path: str | os.PathLike[str], most: int, cfg: DataConfig) -> np.ndarray:
    """At most `most` last frames of a clip, every `cfg.frame_step`-th; or a picture as one frame: uint8 [l, y, x, c].

    Raises:
      InputError: as `load_clip` and `load_image`; or a folder without numbered pictures.
    """
    if not os.path.isdir(path) and Path(path).suffix.lower() not in CLIP_SUFFIXES:
        return load_image(path, cfg.channels)[None]
    with _reading(path):
        length = len(numbered_pictures(os.listdir(path))) if os.path.isdir(path) else _count(path)
        if not length:
            raise InputError("holds no frame")
    frames = min(most, (length - 1) // cfg.frame_step + 1)
    return load_clip(path, frames, cfg.frame_step, cfg.channels, lambda length, span: length - span)


def numbered_pictures(names: Sequence[str]) -> list[str]:
    """The picture files whose names end in a number, in the order of the numbers."""
    numbers = {}
    for name in names:
        path = Path(name)
        number = re.search(r"[0-9]+$", path.stem)
        if number and path.suffix.lower() in FRAME_SUFFIXES and not name.startswith("."):
            numbers[name] = int(number[0])
    return sorted(numbers, key=lambda name: (numbers[name], name))


def _read_video(
    path: str | os.PathLike[str], frames: int, step: int, channels: int, choose_start: ChooseStart
) -> list[np.ndarray]:
    span = (frames - 1) * step + 1
    with _opened(path) as stream:
        length = _stated_length(stream)
    if length is None or length < span:
        length = _count(path)
    pictures = _decode(path, choose_start(length, span), span, step, channels, seek=True)
    if len(pictures) < frames:  # the header stated too many frames, or the seek missed the first one
        pictures = _decode(path, choose_start(_count(path), span), span, step, channels, seek=False)
    return pictures


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The video stream of a file, decoded on one thread."""
    require_av(f"reading {str(path)!r}")
    import av

    demuxer = _DEMUXERS.get(Path(path).suffix.lower())
    if demuxer is None:
        raise ValueError(f"its name ends in none of {', '.join(sorted(_DEMUXERS))}")
    # The protocol says that a name with a colon is no address.
    with av.open(f"file:{os.fspath(path)}", format=demuxer, options={"protocol_whitelist": "file"}) as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels are more than the {MAX_PIXELS} allowed; resize it")
        stream.codec_context.thread_count = 1
        yield stream


def _stated_length(stream: Any) -> int | None:
    """Frames as the header states them, by number or by duration; None if it does not."""
    if stream.frames or stream.codec_context.name == "gif" or not stream.average_rate:
        return stream.frames or None
    seconds = stream.duration * stream.time_base if stream.duration else (stream.container.duration or 0) / 1_000_000
    return round(seconds * stream.average_rate) or None


def _count(path: str | os.PathLike[str]) -> int:
    """Frames of a file, by decoding all of them."""
    with _opened(path) as stream:
        return sum(1 for _ in stream.container.decode(stream))


def _decode(
    path: str | os.PathLike[str], start: int, span: int, step: int, channels: int, *, seek: bool
) -> list[np.ndarray]:
    """Every `step`-th of the frames start, ..., start + span - 1; fewer where the file ends before."""
    with _opened(path) as stream:
        # The frames of a GIF may last differently long, so that times do not number them.
        seeks = seek and start > 0 and stream.average_rate and stream.codec_context.name != "gif"
        frames = stream.container.decode(stream)
        decoded = _after_seek(stream, start, frames) if seeks else itertools.islice(frames, start, None)
        return [_to_array(frame, channels) for frame in itertools.islice(decoded, 0, span, step)]


def _after_seek(stream: Any, start: int, frames: Iterator[Any]) -> Iterator[Any]:
    """The frames from number `start` on, as the mean rate numbers them; none where the seek arrives after it."""
    first_pts = stream.start_time or 0

    def number(frame: Any) -> int:
        return round((frame.pts - first_pts) * stream.time_base * stream.average_rate)

    stream.container.seek(first_pts + int(start / stream.average_rate / stream.time_base), stream=stream)
    first = next(frames, None)
    if first is not None and first.pts is not None and number(first) <= start:
        timed = itertools.takewhile(lambda frame: frame.pts is not None, itertools.chain([first], frames))
        yield from itertools.dropwhile(lambda frame: number(frame) < start, timed)


def _to_array(frame: Any, channels: int) -> np.ndarray:
    """A decoded frame as uint8 [y, x, channels]."""
    picture = Image.fromarray(frame.to_ndarray(format="rgb24"))  # FFmpeg has made transparent pixels of a GIF white
    array = np.array(picture if channels == 3 else picture.convert("L"))
    array = array if channels == 3 else array[..., None]
    return np.ascontiguousarray(np.rot90(array, round(frame.rotation / 90) % 4))
