"""Image files for tests, whole and damaged, and what is refused."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from igpt_jax.errors import InputError


def refused(words, call, *args, **options):
    """The call raises InputError with one line, which has these words or matches them; returns the line."""
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert words in line or re.search(words, line), line
    return line


def write(path, value, size=(4, 5), fmt=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path, fmt)
    return path


def truncate(path):
    """Cuts the pixels of a file and leaves its header whole."""
    path.write_bytes(path.read_bytes()[:-40])


def noise_png(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return path


def values(source):
    """The first value of every image of a source."""
    return [int(source.read(i, None)["image"][0, 0, 0]) for i in range(len(source))]


def labels(source):
    return [source.read(i, None)["label"] for i in range(len(source))]


def tiff(pixels, compression=1, photometric=1, sample_format=1, order="<", tile=None):
    """A TIFF of one strip, or of one tile with these sides, that holds an array [y, x]."""
    data = pixels.tobytes() if compression == 1 else zlib.compress(pixels.tobytes())
    (height, width), bits = pixels.shape, pixels.itemsize * 8
    tags = {256: width, 257: height, 258: bits, 259: compression, 262: photometric, 277: 1, 339: sample_format}
    place = {273: 8, 278: height, 279: len(data)}
    if tile is not None:
        place = {322: tile[0], 323: tile[1], 324: 8, 325: len(data)}
    entries = sorted((tags | place).items())
    table = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    start = struct.pack(f"{order}HI", 42, 8 + len(data))
    ends = struct.pack(f"{order}H", len(entries)), bytes(4)
    return {"<": b"II", ">": b"MM"}[order] + start + data + ends[0] + table + ends[1]
