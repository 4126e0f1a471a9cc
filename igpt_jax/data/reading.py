"""Image files to uint8 arrays. Files may be damaged or hostile: formats and sizes are bounded."""

from __future__ import annotations

import contextlib
import os
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from igpt_jax.errors import InputError, first_line

# The only decoders that may read a user's file. Pillow has others, some of which start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 2**25  # after decoding, 5792 x 5792: one read stays below about 0.7 GB, whatever the header claims
DRAFT_SIDE = 1024  # large JPEGs are decoded at 1/2, 1/4 or 1/8 while both sides keep at least this many pixels


def load_image(path_or_file: str | os.PathLike[str] | BinaryIO, channels: Literal[1, 3]) -> np.ndarray:
    """Reads the first frame of a JPEG, PNG, WebP, GIF or BMP as uint8 [y, x, channels].

    The EXIF orientation is applied, transparent pixels are laid over white, 16-bit grey is scaled to 8 bits, and colour
    becomes grey by ITU-R 601 luma. A JPEG whose sides both reach 2048 pixels is decoded at 1/2, 1/4 or 1/8 of its size.

    Raises:
      InputError: missing, not an image of these formats, damaged, truncated, or of more than 2**25 pixels to decode.
    """
    name = path_or_file if isinstance(path_or_file, str | os.PathLike) else getattr(path_or_file, "name", "image")
    try:
        with Image.open(path_or_file, formats=FORMATS) as image:
            if image.format == "JPEG":
                image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS} allowed")
            image.load()
            with contextlib.suppress(Exception):  # a damaged EXIF block; the pixels are decoded already
                ImageOps.exif_transpose(image, in_place=True)
            return _to_array(image, channels)
    except Exception as error:  # decoders raise anything when a file is damaged
        reason = getattr(error, "strerror", None) or first_line(error)
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is none of {', '.join(FORMATS)}"
        raise InputError(f"{str(name)!r} cannot be read as an image: {reason}") from None


def _to_array(image: Image.Image, channels: int) -> np.ndarray:
    """A decoded image of any mode as uint8 [y, x, channels]."""
    if image.mode.startswith("I"):  # Pillow's own conversion clips 16 bits to 8
        wide = np.asarray(image).astype(np.int32).clip(0, 65535)
        wide[wide == image.info.get("transparency", -1)] = 65535
        return np.repeat(((wide + 128) // 257).astype(np.uint8)[..., None], channels, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer)
    array = np.array(image.convert("RGB" if channels == 3 else "L"))
    return array if channels == 3 else array[..., None]
