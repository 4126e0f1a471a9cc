"""Clip files to uint8 frames, through PyAV. Files may be damaged or hostile: formats and sizes are bounded.

A clip is never decoded whole: the packets of the file say when each frame is shown, decoding begins at the keyframe
before the first frame that is asked for, and ends with the last one. Frames may last differently long.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from igpt_jax.config import DataConfig
from igpt_jax.data.reading import MAX_PIXELS, SUFFIXES, decoding, load_image
from igpt_jax.errors import InputError

# The only demuxers that may read a user's file. FFmpeg has others, some of which open further files or addresses.
_DEMUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mp4", ".webm": "matroska", ".mkv": "matroska", ".gif": "gif"}
CLIP_SUFFIXES = frozenset(_DEMUXERS)
FRAME_SUFFIXES = SUFFIXES - CLIP_SUFFIXES
"""Of pictures that are frames of a clip."""

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
    """Reads every `step`-th frame of an mp4, mov, WebM, mkv or GIF, or of a folder of numbered pictures: uint8
    [frames, y, x, c].

    Transparent pixels of a GIF are white, frames are turned, mirrored and stretched as players do, and colour becomes
    grey by ITU-R 601 luma. InputError refuses frames of different sizes or of more than 2**25 pixels, too.
    """
    span = (frames - 1) * step + 1
    with decoding(path, "a clip"):
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


def load_last_frames(path: str | os.PathLike[str], most: int, cfg: DataConfig) -> np.ndarray:
    """At most `most` last frames of a clip, every `cfg.frame_step`-th; or one picture: uint8 [l, y, x, c]."""
    if not os.path.isdir(path) and Path(path).suffix.lower() not in CLIP_SUFFIXES:
        return load_image(path, cfg.channels)[None]
    with decoding(path, "a clip"):
        length = len(numbered_pictures(os.listdir(path))) if os.path.isdir(path) else len(frame_times(path))
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
    times, span = frame_times(path), (frames - 1) * step + 1
    start = choose_start(len(times), span)
    wanted = times[start : start + span : step]
    pictures = _decode(path, wanted, channels)
    if len(pictures) < frames:  # frames of an index that the decoder does not give: count what it gives
        decoded = [time for time, *_ in _frames(path)]
        start = choose_start(len(decoded), span)
        pictures = _decode(path, decoded[start : start + span : step], channels, seek=False)
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


def frame_times(path: str | os.PathLike[str]) -> list[int]:
    """When each frame of a file is shown, in order, from the index of its packets: no frame is decoded. Those that an
    edit list cuts off are left out, since no player shows them."""
    status = os.stat(path)
    return list(_frame_times(os.fspath(path), status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=4096)
def _frame_times(path: str, size: int, modified: int) -> tuple[int, ...]:
    with _opened(path) as stream:
        packets = [packet for packet in stream.container.demux(stream) if packet.size]
    shown = [packet.pts for packet in packets if not packet.is_discard]
    if len(shown) == len(set(shown)) and None not in shown:
        return tuple(sorted(shown))
    return tuple(time for time, *_ in _frames(path))  # packets without times, as of raw streams


def _frames(path: str | os.PathLike[str], start: int | None = None) -> Iterator[tuple[int, Any, Any]]:
    """(time, frame, width of a pixel over its height), in the order shown, from the keyframe at or before a time on."""
    with _opened(path) as stream:
        if start is not None:
            stream.container.seek(start, stream=stream)
        for i, frame in enumerate(stream.container.decode(stream)):
            yield i if frame.pts is None else frame.pts, frame, stream.sample_aspect_ratio or 1


def _decode(path: str | os.PathLike[str], times: Sequence[int], channels: int, seek: bool = True) -> list[np.ndarray]:
    """The frames of these times that are found."""
    pictures: dict[int, np.ndarray] = {}
    wanted = set(times)
    for time, frame, aspect in _frames(path, times[0] if seek else None):
        if time in wanted:
            pictures[time] = _to_array(frame, aspect, channels)
        if time >= times[-1]:
            break
    return [pictures[time] for time in times if time in pictures]


def _to_array(frame: Any, aspect: Any, channels: int) -> np.ndarray:
    """A decoded frame as a player shows it, uint8 [y, x, channels]: square pixels, turned and mirrored."""
    picture = Image.fromarray(frame.to_ndarray(format="rgb24"))  # FFmpeg has made transparent pixels of a GIF white
    if aspect != 1:
        width = max(1, round(picture.width * aspect))
        if width * picture.height > MAX_PIXELS:
            raise ValueError(f"its pixels are {aspect} times as wide as high, too many to show; resize it")
        picture = picture.resize((width, picture.height), Image.Resampling.BICUBIC)
    array = np.array(picture if channels == 3 else picture.convert("L"))
    return np.ascontiguousarray(_as_displayed(array if channels == 3 else array[..., None], frame))


def _as_displayed(array: np.ndarray, frame: Any) -> np.ndarray:
    """A frame turned and mirrored as its display matrix says, which moves (x, y) to (a x + c y, b x + d y)."""
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return array
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32)
    transposed = abs(int(a)) < abs(int(b))
    array, (across, down) = (array.swapaxes(0, 1), (c, b)) if transposed else (array, (a, d))
    return array[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
