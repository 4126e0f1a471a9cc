"""Clip files for tests, whole and damaged."""

from fractions import Fraction

import numpy as np
from PIL import Image

CODECS = {".mp4": ("libx264", "yuv420p"), ".webm": ("libvpx-vp9", "yuv420p")}


def moving_frames(n, seed=0, size=(32, 48)):
    """uint8 [n, y, x, 3]: a smooth pattern that moves, with another brightness in every frame."""
    y, x = np.indices(size)
    phase = np.random.default_rng(seed).uniform(0, 6)
    frames = []
    for t in range(n):
        wave = 60 * np.sin((x + 2 * t) / 5 + phase) + 40 * np.cos((y + t) / 4)
        frames.append(np.stack([128 + wave, 100 + 3 * t + 0 * wave, 128 - wave], axis=-1).clip(0, 255))
    return np.stack(frames).astype(np.uint8)


def write_clip(path, frames, every=8, rate=10):
    """An mp4 or WebM with a keyframe every so many frames, or a GIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        first, *others = (Image.fromarray(frame) for frame in frames)
        first.save(path, save_all=True, append_images=others, duration=([80, 400, 30] * len(frames))[: len(frames)])
        return path
    import av

    codec, pixels = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": str(every), "bf": "2", "deadline": "realtime"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder, frames, name="frame{:03d}.png"):
    """A folder of numbered pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(i))
    return folder


def write_timed(path, greys, times, aspect):
    """An mp4 of grey frames that are shown at these milliseconds, with pixels `aspect` times as wide as high."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "8", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.sample_aspect_ratio = Fraction(1, 1000), aspect
        for grey, time in zip(greys, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), grey, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
