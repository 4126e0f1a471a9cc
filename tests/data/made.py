"""Picture files, whole and damaged, and what a source makes of them."""

import numpy as np
from PIL import Image


def write(path, value, size=(4, 5), fmt=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path, fmt)
    return path


def truncate(path):
    """Leaves the header readable and the pixels not."""
    path.write_bytes(path.read_bytes()[:-40])


def noise_png(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return path


def values(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]
