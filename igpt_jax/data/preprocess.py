"""One picture on the host: read from its file, denoised, enhanced, cropped, resized, mirrored.

Pictures are uint8 [y, x, c] with c = 1 or 3; every random choice comes from a generator in the argument list. Which
files to read is left to `sources`, the generator of each sample to `pipeline`; colours become tokens on the device.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from igpt_jax.config import DataConfig, InputError
from igpt_jax.validation import first_line

IMAGENET_SHORTER = (256, 384)  # paper section 3, pre-training: shorter side, both ends included
IMAGENET_CROP = 224  # also the shorter side in evaluation
CIFAR_PAD = 4

Box = tuple[float, float, float, float]  # top, left, bottom, right in pixels of the picture


# The decoders that may touch a user's file; the rest of Pillow (some of which start other programs) stays out of reach.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 2**25  # decoded, 5792 x 5792; keeps one read below about 0.7 GB whatever the header claims
DRAFT_SIDE = 1024  # large JPEGs are decoded at 1/2, 1/4 or 1/8 as long as both sides keep this many pixels

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# Reading


def load_image(path_or_file: str | os.PathLike[str] | BinaryIO, channels: Literal[1, 3]) -> np.ndarray:
    """Reads the first frame of a JPEG, PNG, WebP, GIF or BMP as uint8 [y, x, channels], upright.

    EXIF orientation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits, colour becomes
    grey by ITU-R 601 luma. A JPEG whose sides both reach 2048 pixels is decoded at 1/2, 1/4 or 1/8 of its size.

    Raises:
      InputError: missing, not an image of these formats, damaged, truncated, or of more than 2**25 pixels to decode.
    """
    name = path_or_file if isinstance(path_or_file, str | os.PathLike) else getattr(path_or_file, "name", "image")
    try:
        with _open_image(path_or_file) as image:
            image.load()
            return _pixels(_upright(image), channels)
    except Exception as error:  # decoders fail in every way there is when the bytes are hostile
        raise InputError(f"{str(name)!r} cannot be read as an image: {_fault(error)}") from None


def image_fault(path: str | os.PathLike[str]) -> str | None:
    """What is wrong with an image file as far as its header tells (one line), or None."""
    try:
        with _open_image(path):
            return None
    except Exception as error:  # as above
        return f"{str(path)!r} cannot be read as an image: {_fault(error)}"


def _fault(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}"
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


def _open_image(path_or_file: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    image = Image.open(path_or_file, formats=FORMATS)
    if image.format == "JPEG":
        image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS} allowed")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # a damaged EXIF block says nothing about the pixels, which have been decoded by now
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """A decoded image of any mode as uint8 [y, x, channels]."""
    if image.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits to 8
        wide = np.asarray(image).astype(np.int32).clip(0, 65535)
        wide[wide == image.info.get("transparency", -1)] = 65535
        return np.repeat(((wide + 128) // 257).astype(np.uint8)[..., None], channels, axis=2)
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer)
    array = np.array(image.convert("RGB" if channels == 3 else "L"))
    return array if channels == 3 else array[..., None]


# Geometry


def resize(image: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    """Resamples `image`, or the part of it in `box`, to `size` = (rows, cols).

    The paper does not name its filter. This is Pillow's HAMMING: its window widens with the scale, so nothing aliases
    at any ratio; its weights are never negative, so edges do not ring and no colour appears that lies outside its
    neighbourhood (Lanczos and bicubic do both, which a small palette shows); and it stays sharper than a triangle.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    corners = None if box is None else (box[1], box[0], box[3], box[2])
    resized = np.array(picture.resize((size[1], size[0]), Image.Resampling.HAMMING, corners))
    return resized.reshape(*size, image.shape[2])


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest centred part of the shape of `size` (a square for a square), resized; `image` itself if it fits."""
    if image.shape[:2] == size:
        return image
    y, x = image.shape[:2]
    rows, cols = min(y, max(1, round(x * size[0] / size[1]))), min(x, max(1, round(y * size[1] / size[0])))
    return resize(centre_crop(image, (rows, cols)), size)


def centre_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The `size` = (rows, cols) in the middle; where the margins are uneven, the smaller is at the top and left."""
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return _crop(image, size, top, left)


def random_crop(image: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A part of `size` = (rows, cols), every position equally likely."""
    top, left = (int(rng.integers(image.shape[axis] - size[axis] + 1)) for axis in (0, 1))
    return _crop(image, size, top, left)


def _crop(image: np.ndarray, size: tuple[int, int], top: int, left: int) -> np.ndarray:
    if top < 0 or left < 0:
        raise ValueError(f"a crop of {size} does not fit into {image.shape[:2]}")
    return image[top : top + size[0], left : left + size[1]]


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors left to right with probability 1/2."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def reflect_pad_crop(image: np.ndarray, pad: int, rng: np.random.Generator) -> np.ndarray:
    """Pads by `pad` on all sides, mirrored about the edge pixels, and crops back to the size at random.

    The paper pads CIFAR images by 4 pixels (fine-tuning, section 3).
    """
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    return random_crop(padded, (image.shape[0], image.shape[1]), rng)


def shift(image: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Moves the picture by whole pixels, dy and dx uniform in [-limit, limit]; edge pixels fill what is uncovered."""
    padded = np.pad(image, ((limit, limit), (limit, limit), (0, 0)), mode="edge")
    return random_crop(padded, (image.shape[0], image.shape[1]), rng)


def imagenet_crop(image: np.ndarray, size: tuple[int, int], rng: np.random.Generator | None) -> np.ndarray:
    """Scales the shorter side, takes a 224 x 224 crop and downsamples it to `size` (paper section 3).

    With `rng` the shorter side is uniform in [256, 384] and the crop anywhere; without, 224 and the centre. The three
    steps are one resampling of the crop's place in the original: sharper than two, and a 1 x 100000 picture is never
    blown up on the way. A `size` that is not square takes the crop of its shape whose longer side is 224.
    """
    y, x = image.shape[:2]
    shorter = IMAGENET_CROP if rng is None else int(rng.integers(IMAGENET_SHORTER[0], IMAGENET_SHORTER[1] + 1))
    scaled = (round(y * shorter / min(y, x)), round(x * shorter / min(y, x)))
    crop = tuple(max(1, round(IMAGENET_CROP * n / max(size))) for n in size)
    room = tuple(a - b for a, b in zip(scaled, crop, strict=True))
    top, left = (n // 2 if rng is None else int(rng.integers(n + 1)) for n in room)
    fy, fx = y / scaled[0], x / scaled[1]
    box = (top * fy, left * fx, min((top + crop[0]) * fy, y), min((left + crop[1]) * fx, x))
    return resize(image, size, box)


# Restoration


def denoise(image: np.ndarray, kind: str) -> np.ndarray:
    """Denoises with scikit-image: `tv`, `bilateral`, `nlmeans`, `wavelet`, or `none`.

    Raises:
      InputError: scikit-image (or PyWavelets, for `wavelet`) is not installed, or there is no such kind.
    """
    if kind == "none":
        return image
    _require_skimage("data.denoise", kind)
    from skimage import restoration

    x, axis = _as_float(image)
    if kind == "tv":
        x = restoration.denoise_tv_chambolle(x, weight=0.1, channel_axis=axis)
    elif kind == "bilateral":
        x = restoration.denoise_bilateral(x, sigma_color=0.1, sigma_spatial=1.5, mode="edge", channel_axis=axis)
    elif kind == "nlmeans":
        x = restoration.denoise_nl_means(x, patch_size=5, patch_distance=6, h=0.08, channel_axis=axis)
    elif kind == "wavelet":
        if (sigma := _noise_level(x)) > 0:
            x = restoration.denoise_wavelet(x, sigma, channel_axis=axis, convert2ycbcr=axis is not None)
    else:
        raise InputError(f"data.denoise: no denoiser {kind!r}")
    return _as_uint8(x, image.shape)


def _noise_level(x: np.ndarray) -> float:
    """Standard deviation of the noise, from the median second difference of [y, x] or [y, x, c].

    0 for a single row or column. (scikit-image's own estimate turns a picture enlarged by pixel doubling into NaN.)
    """
    if min(x.shape[:2]) < 2:
        return 0.0
    detail = x[1:, 1:] - x[1:, :-1] - x[:-1, 1:] + x[:-1, :-1]
    return float(np.median(np.abs(detail))) / (2 * 0.6745)  # four noisy terms; MAD of a unit normal


def enhance(image: np.ndarray, kind: str) -> np.ndarray:
    """Raises contrast with scikit-image; a picture of one brightness is returned as it is.

    `stretch` maps the 2nd to 98th percentile of all channels to the full range; `equalize` and `clahe` equalise the
    histogram of the brightness (V of HSV), over the whole picture or by regions.

    Raises:
      InputError: scikit-image is not installed, or there is no such kind.
    """
    if kind == "none":
        return image
    _require_skimage("data.enhance", kind)
    from skimage import color, exposure

    x, axis = _as_float(image)
    if kind == "stretch":
        low, high = np.percentile(x, (2, 98))
        return image if low == high else _as_uint8((x - low) / (high - low), image.shape)
    if kind not in ("equalize", "clahe"):
        raise InputError(f"data.enhance: no enhancement {kind!r}")
    hsv = None if axis is None else color.rgb2hsv(x)
    value = x if hsv is None else hsv[..., 2]
    if value.min() == value.max():
        return image
    value = exposure.equalize_hist(value) if kind == "equalize" else exposure.equalize_adapthist(value)
    if hsv is None:
        return _as_uint8(value, image.shape)
    hsv[..., 2] = value
    return _as_uint8(color.hsv2rgb(hsv), image.shape)


def _require_skimage(key: str, kind: str) -> None:
    for module, package in (("skimage", "scikit-image"), ("pywt", "PyWavelets")):
        if (module == "skimage" or kind == "wavelet") and importlib.util.find_spec(module) is None:
            raise InputError(f"{key}: {kind!r} needs {package}; pip install -e '.[enhance]'")


def _as_float(image: np.ndarray) -> tuple[np.ndarray, int | None]:
    """In [0, 1], grey without its channel axis, and the channel axis for scikit-image."""
    x = image.astype(np.float32) / 255
    return (x[..., 0], None) if image.shape[2] == 1 else (x, -1)


def _as_uint8(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8).reshape(shape)


# The whole


@dataclass(frozen=True)
class Preprocess:
    """One picture of any size to uint8 [rows, cols, c]; built by `make_preprocess`. Picklable."""

    cfg: DataConfig
    size: tuple[int, int]
    train: bool

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        cfg, size = self.cfg, self.size
        image = enhance(denoise(image, cfg.denoise), cfg.enhance)
        if cfg.augment == "imagenet":
            image = imagenet_crop(image, size, rng if self.train else None)
        else:
            image = fit(image, size)
            if self.train and cfg.augment == "cifar":
                image = reflect_pad_crop(image, CIFAR_PAD, rng)
            elif self.train and cfg.augment == "shift" and rng.random() < 0.5:
                image = shift(image, cfg.shift, rng)
        if self.train and cfg.flip:
            image = flip(image, rng)
        return np.ascontiguousarray(image)


def make_preprocess(
    cfg: DataConfig, size: tuple[int, int], *, train: bool
) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """The recipe of `cfg`: (uint8 [y, x, c], generator) -> uint8 [rows, cols, c] of exactly `size` = (rows, cols).

    In this order: `denoise` and `enhance` at full size, geometry, mirroring. In evaluation nothing is random.

      none      centre square, resized; a picture that has the size already is untouched
      shift     then, while training, half of the pictures moved by up to `cfg.shift` pixels
      cifar     then reflect-padded by 4 and cropped while training (paper section 3, fine-tuning)
      imagenet  shorter side 256 to 384 and a random 224 crop while training, 224 and the centre else (section 3)

    The paper mirrors CIFAR images and names no mirroring for ImageNet: `cfg.flip` alone switches it, for all recipes.

    Raises:
      InputError: `cfg` asks for scikit-image or PyWavelets and it is not installed.
    """
    for key, kind in (("data.denoise", cfg.denoise), ("data.enhance", cfg.enhance)):
        if kind != "none":
            _require_skimage(key, kind)
    return Preprocess(cfg, (size[0], size[1]), train)
