"""What lossless image files take for the same pictures: the bits per token of PNG, WebP and JPEG XL."""

from __future__ import annotations

import importlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, features

from igpt_jax import progress
from igpt_jax.analysis.baselines import read_tokens
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext

log = logging.getLogger(__name__)

OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"optimize": True},
    "webp": {"lossless": True, "quality": 100, "method": 6},
    "jxl": {"lossless": True, "effort": 10},
}
"""Format of Pillow -> the settings that make its lossless files small."""

MOST_ROWS = 16_383
"""Rows of one file; WebP takes no more."""


class Codecs:
    """Bits per token of files that hold the images as the palette shows them.

    Many images lie one below another in a file, so that headers, of which each small file would have one, do not count.
    JPEG XL needs the extra `jxl` and is left out without it.

    Raises:
      InputError: when it runs; an image is wider than a file can be.
    """

    def __init__(self, context: EvalContext):
        self._context = context

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields png_bits_per_token and so on."""
        palette, width = self._context.palette, self._context.model.cfg.grid[-1]
        if width > MOST_ROWS:
            raise InputError(f"--lossless: images are {width} pixels wide, and a WebP at most {MOST_ROWS}")
        tokens = read_tokens(self._context, self._context.held_out)
        rows = tokens.reshape(-1, width)
        strips = [np.asarray(palette.decode(rows[at : at + MOST_ROWS])) for at in range(0, len(rows), MOST_ROWS)]
        for name in filter(_available, OPTIONS):
            size = 0
            for i, strip in enumerate(strips):
                progress.report(f"writing {name.upper()}", i, len(strips))
                size += len(encode(name, strip))
            progress.report(f"writing {name.upper()}", len(strips), len(strips))
            yield f"{name}_bits_per_token", 8 * size / tokens.size


def encode(name: str, pixels: np.ndarray) -> bytes:
    """The content of a lossless file with uint8 pixels [Y, X, C], C of 1 or 3."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, name, **OPTIONS[name])
    return file.getvalue()


def _available(name: str) -> bool:
    if name != "jxl":
        return name == "png" or bool(features.check(name))
    try:
        importlib.import_module("pillow_jxl")  # registers the format
    except ImportError:
        log.info("JPEG XL is left out: pip install 'igpt_jax[jxl]'")
        return False
    return True
