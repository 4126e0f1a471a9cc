"""What lossless image files take for the same pictures: the bits per token of PNG, WebP and JPEG XL."""

from __future__ import annotations

import importlib
import io
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from PIL import Image, features

from igpt_jax import progress
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext, read_images
from igpt_jax.objectives import batch_tokens

log = logging.getLogger(__name__)

OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"optimize": True},
    "webp": {"lossless": True, "quality": 100, "method": 6},
    "jxl": {"lossless": True, "effort": 10},
}
"""Format of Pillow -> the settings that make its lossless files small."""

MOST_ROWS = 16_383
"""Rows of one file; WebP takes no more."""


def lossless_sizes(context: EvalContext) -> dict[str, float]:
    """Bits per token of files that hold the images as the palette shows them: png_bits_per_token and so on.

    Many images lie one below another in a file, so that headers, of which each small file would have one, do not count.
    JPEG XL needs the extra `jxl` and is left out without it.
    """
    palette, width, sizes = context.palette, context.model.cfg.grid[-1], {}
    if width > MOST_ROWS:
        raise InputError(f"lossless files: images are {width} pixels wide, and a WebP at most {MOST_ROWS}")

    def read(batch: Mapping[str, jax.Array], keys_B: jax.Array) -> jax.Array:
        del keys_B  # nothing is drawn
        return batch_tokens(palette, batch)

    rows = read_images(context, context.held_out, read).reshape(-1, width)
    strips = [np.asarray(palette.decode(rows[at : at + MOST_ROWS])) for at in range(0, len(rows), MOST_ROWS)]
    for name in filter(_available, OPTIONS):
        files = progress.track(strips, f"writing {name.upper()}", len(strips))
        sizes[f"{name}_bits_per_token"] = 8 * sum(len(encode(name, strip)) for strip in files) / rows.size
    return sizes


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
