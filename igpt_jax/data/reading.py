"""Image files to uint8 arrays. Files may be damaged or hostile: formats and sizes are bounded."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, features
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from igpt_jax.errors import InputError, first_line

Image.init()  # fills Image.OPEN
# The only decoders that may read a user's file. Pillow has others, some of which start other programs.
_READS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
if "avif" in features.get_supported_modules():
    _READS["AVIF"] = (".avif",)
FORMATS = tuple(_READS)
SUFFIXES = frozenset(suffix for suffixes in _READS.values() for suffix in suffixes)  # in small letters
TIFF_COMPRESSIONS = (
    *("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg"),
    *("tiff_ccitt", "group3", "group4"),
)
MAX_PIXELS = 2**25  # after decoding, 5792 x 5792: one read stays below about 0.7 GB, whatever the header claims
MAX_JPEG_PIXELS = 3 * 2**26  # before reduction, a camera of 200 megapixels; several scans need up to 6 bytes for each
DRAFT_SIDE = 1024  # large JPEGs are decoded at 1/2, 1/4 or 1/8 while both sides keep at least this many pixels


def load_image(path_or_file: str | os.PathLike[str] | BinaryIO, channels: Literal[1, 3]) -> np.ndarray:
    """Reads the first frame or page of a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF as uint8 [y, x, channels].

    The EXIF orientation is applied, transparent pixels are laid over white, 16-bit grey is scaled to 8 bits, and colour
    becomes grey by ITU-R 601 luma. A JPEG whose sides both reach 2048 pixels is decoded at 1/2, 1/4 or 1/8 of its size.
    AVIF needs a Pillow that was built with it.

    Besides damaged files, InputError refuses those of more than 2**25 pixels to decode, and TIFFs of pixels whose black
    and white are not known (floats, signed numbers, other than 1, 2, 4, 8 or 16 bits).
    """
    is_path = isinstance(path_or_file, str | os.PathLike)
    name = path_or_file if is_path else getattr(path_or_file, "name", "image")
    with (
        decoding(name, "an image"),
        open(path_or_file, "rb") if is_path else contextlib.nullcontext(path_or_file) as file,
    ):
        image = _open(file)
        _check_size(image)
        image.info["_raw"] = image.tile[0].args if isinstance(image, PngImageFile) else ""
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiff(image)
        image = _load(image, file)
        with contextlib.suppress(Exception):  # a damaged EXIF block; the pixels are decoded already
            ImageOps.exif_transpose(image, in_place=True)
        return _to_array(image, channels)


@contextlib.contextmanager
def decoding(path: object, what: str) -> Iterator[None]:
    """Turns whatever decoders raise at a damaged file into one line that names it."""
    try:
        yield
    except InputError as error:
        named = str(path) in str(error)
        raise InputError(str(error) if named else f"{str(path)!r} {error}") from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{str(path)!r} cannot be read as {what}: {reason}") from None


def _open(file: BinaryIO) -> Image.Image:
    """The image in a file, not decoded yet, by the first of FORMATS that knows how the file begins.

    Image.open would do the same, but warns of sizes and refuses others by bounds of its own, which are not ours.
    """
    beginning = file.read(16)
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(beginning):
            file.seek(0)
            return factory(_only_pixels(file) if name == "PNG" else file, "")
    raise ValueError(f"must be one of {', '.join(FORMATS)}")


def _only_pixels(file: BinaryIO) -> BinaryIO:
    """A PNG without the chunks that say nothing of its pixels: profiles and texts of any size, damaged ones too. A
    missing end is added."""
    kept, size = io.BytesIO(), 0
    kept.write(file.read(8))
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"IEND":
            break
        if name in _PIXEL_CHUNKS:
            size += length
            if size > 16 * MAX_PIXELS:
                raise ValueError("its compressed pixels are larger than those of any picture that is read")
            kept.write(head + file.read(length + 4))
        else:
            file.seek(length + 4, os.SEEK_CUR)
    kept.write(b"\0\0\0\0IEND\xaeB`\x82")
    kept.seek(0)
    return kept


_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf")


def _load(image: Image.Image, file: BinaryIO) -> Image.Image:
    """The decoded image. A JPEG without its last bytes is completed, as other readers do; what is missing becomes flat.
    Where more is missing, so that the last rows are flat altogether, it is refused."""
    try:
        image.load()
    except OSError as error:
        baseline = isinstance(image, JpegImageFile) and not image.info.get("progressive")
        if not baseline or "truncated" not in str(error):
            raise
        file.seek(0)
        completed = JpegImageFile(io.BytesIO(file.read() + b"\xff\xd9"), "")
        completed.draft(None, image.size)
        completed.load()
        last = np.asarray(completed.convert("L"))[-8:]
        if (last == last[:, :1]).all():
            raise
        return completed
    return image


def _check_size(image: Image.Image) -> None:
    """Raises ValueError if there are too many pixels to decode. A large JPEG is set to be decoded at a reduced size."""
    (width, height), is_jpeg = image.size, isinstance(image, JpegImageFile)
    if is_jpeg and width * height <= MAX_JPEG_PIXELS:
        image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
    if image.width * image.height > MAX_PIXELS:
        reduction = max(n for n in (1, 2, 4, 8) if n == 1 or min(width, height) // n >= DRAFT_SIDE)
        fits_as_jpeg = not is_jpeg and width * height <= min(MAX_JPEG_PIXELS, MAX_PIXELS * reduction**2)
        way_out = "resize it" + (", or save it as a JPEG, which is decoded at a reduced size" if fits_as_jpeg else "")
        raise ValueError(f"{width} x {height} pixels are more than the {MAX_PIXELS} allowed; {way_out}")


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raises ValueError if black and white of the pixels are not known, or decoding may need any amount of memory."""
    tags = image.tag_v2
    bits, kinds = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)), tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 and bits[0] > 8  # Pillow would not invert it
    if set(kinds) != {1} or bits[0] not in (1, 2, 4, 8, 16) or inverted:
        raise ValueError("a TIFF of this pixel type is not read; save it with 8 or 16 bits a channel, 0 for black")
    compression = image.info.get("compression")
    if compression not in TIFF_COMPRESSIONS:
        raise ValueError(f"a TIFF of compression {compression} is not read; save it with LZW or without compression")
    if tags.get(TiffImagePlugin.TILEWIDTH, 0) * tags.get(TiffImagePlugin.TILELENGTH, 0) > MAX_PIXELS:
        raise ValueError(f"its tiles have more than the {MAX_PIXELS} pixels allowed; save it without tiles")


def _to_array(image: Image.Image, channels: int) -> np.ndarray:
    """A decoded image of any mode as uint8 [y, x, channels]."""
    if image.mode.startswith("I"):  # Pillow's own conversion clips 16 bits to 8
        wide = np.asarray(image).astype(np.int32).clip(0, 65535)
        wide[wide == image.info.get("transparency", -1)] = 65535
        return np.repeat(((wide + 128) // 257).astype(np.uint8)[..., None], channels, axis=2)
    if image.info.get("_raw"):
        _scale_transparency(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer)
    array = np.array(image.convert("RGB" if channels == 3 else "L"))
    return array if channels == 3 else array[..., None]


def _scale_transparency(image: Image.Image) -> None:
    """Brings the transparent colour of a PNG, which has the depth of the file, to the 8 bits of the decoded pixels."""
    color = image.info.get("transparency")
    depth = 1 if image.mode == "1" else int(image.info["_raw"].partition(";")[2].rstrip("B") or 8)
    if isinstance(color, int) and image.mode in ("1", "L"):
        image.info["transparency"] = color * 255 // (2**depth - 1)
    elif isinstance(color, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in color)
