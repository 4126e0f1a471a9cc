"""Image files for tests, whole and damaged, and what is refused."""

import re

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
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]
