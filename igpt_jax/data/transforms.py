"""What is done to one image or clip on the host: denoising, contrast, geometry, mirroring.

Images are uint8 [y, x, c] with c = 1 or 3, clips uint8 [l, y, x, c]. Every random choice comes from a generator that
the caller passes, and is the same for all frames of a clip.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from PIL import Image

from igpt_jax.config import DataConfig
from igpt_jax.errors import InputError

IMAGENET_SHORTER = (256, 384)  # paper section 3, pre-training: shorter side, both ends included
IMAGENET_CROP = 224  # also the shorter side in evaluation

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels, as in Pillow."""


def make_preprocess(cfg: DataConfig, size: tuple[int, int], *, train: bool) -> Transform:
    """The transform that `cfg` asks for: (uint8 [y, x, c], generator) -> uint8 [*size, c]. It can be pickled.

    Of a clip, uint8 [l, y, x, c], it treats every frame alike and gives uint8 [l, *size, c].

    First `cfg.denoise` and `cfg.enhance` at full size, then the geometry of `cfg.augment`, then mirroring:

      none      centre crop of the shape of `size`, resized; an image that has the size already stays as it is
      shift     the same; in training, half of the images are then moved by up to `cfg.shift` pixels
      cifar     the same; in training, then reflect-padded by 4 and cropped at random (paper section 3, fine-tuning)
      imagenet  in training the shorter side becomes 256 to 384, with a random 224 crop; in evaluation the shorter side
                becomes 224, with the centre crop (paper section 3)
      crop      a part of `size` at the picture's own resolution: in training anywhere, in evaluation the centre; a
                picture that is smaller is treated as by none

    `cfg.flip` alone decides about mirroring (the paper mirrors CIFAR images). Evaluation has no random choice.
    """
    for key, kind in (("data.denoise", cfg.denoise), ("data.enhance", cfg.enhance)):
        for module, package in (("skimage", "scikit-image"), ("pywt", "PyWavelets")):
            needed = kind != "none" and (module == "skimage" or kind == "wavelet")
            if needed and importlib.util.find_spec(module) is None:
                raise InputError(f"{key}: {kind!r} needs {package}; pip install 'igpt_jax[enhance]'")
    return functools.partial(_preprocess, cfg, size, train)


def _preprocess(
    cfg: DataConfig, size: tuple[int, int], train: bool, image: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    if image.ndim == 4:  # copies of the generator draw the same for every frame
        return np.stack([_preprocess(cfg, size, train, frame, copy.deepcopy(rng)) for frame in image])
    image = enhance(denoise(image, cfg.denoise), cfg.enhance)
    if cfg.augment == "imagenet":
        image = resize(image, size, imagenet_box(image.shape[:2], size, rng if train else None), cfg.resample)
    elif cfg.augment == "crop":
        image = crop(image, size, rng if train else None, cfg.resample)
    else:
        image = fit(image, size, cfg.resample)
    if train and cfg.augment == "cifar":
        image = pad_and_crop(image, 4, rng, "reflect")
    if train and cfg.augment == "shift" and rng.random() < 0.5:
        image = pad_and_crop(image, cfg.shift, rng, "edge")
    if train and cfg.flip:
        image = flip(image, rng)
    return np.ascontiguousarray(image)


# Geometry


def resize(
    image: np.ndarray, size: tuple[int, int], box: Box | None = None, resample: str = DataConfig.resample
) -> np.ndarray:
    """Resamples `image`, or the part of it in `box`, to `size` = (rows, cols), with a filter of Pillow.

    The paper does not name its filter. The default is hamming. Its window grows with the scale, so it does not alias.
    Its weights are not negative, so edges do not ring, and no colour lies outside the range of its neighbours; lanczos
    and bicubic do both, which a small palette makes visible. It is sharper than bilinear, a triangle.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    resized = picture.resize((size[1], size[0]), Image.Resampling[resample.upper()], box)
    return np.array(resized).reshape(*size, image.shape[2])


def fit(image: np.ndarray, size: tuple[int, int], resample: str = DataConfig.resample) -> np.ndarray:
    """The largest centred part that has the shape of `size`, resized; `image` itself where it has that size.

    The crop is of whole pixels, the smaller margin at the top and left. (`PIL.ImageOps.fit` crops at half pixels, which
    blurs an image that needs no scaling.)
    """
    if image.shape[:2] == size:
        return image
    y, x = image.shape[:2]
    rows, cols = min(y, max(1, round(x * size[0] / size[1]))), min(x, max(1, round(y * size[1] / size[0])))
    top, left = (y - rows) // 2, (x - cols) // 2
    return resize(image[top : top + rows, left : left + cols], size, resample=resample)


def crop(
    image: np.ndarray, size: tuple[int, int], rng: np.random.Generator | None, resample: str = DataConfig.resample
) -> np.ndarray:
    """A part of `size`: anywhere, or without `rng` the centre. A smaller image is fitted as a whole."""
    room = image.shape[0] - size[0], image.shape[1] - size[1]
    if min(room) < 0:
        return fit(image, size, resample)
    top, left = _corner(room, rng)
    return image[top : top + size[0], left : left + size[1]]


def _corner(room: Sequence[int], rng: np.random.Generator | None) -> list[int]:
    """Where a crop begins along each axis: uniform in 0..room, or without `rng` in the middle."""
    return [n // 2 if rng is None else int(rng.integers(n + 1)) for n in room]


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors left to right with probability 1/2."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def pad_and_crop(image: np.ndarray, pad: int, rng: np.random.Generator, mode: Literal["edge", "reflect"]) -> np.ndarray:
    """Moves an image by whole pixels, dy and dx uniform in [-pad, pad]; `mode`, of np.pad, fills the gap."""
    rows, cols, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode)
    top, left = rng.integers(2 * pad + 1), rng.integers(2 * pad + 1)
    return padded[top : top + rows, left : left + cols]


def imagenet_box(shape: tuple[int, ...], size: tuple[int, int], rng: np.random.Generator | None) -> Box:
    """Which part of an image of `shape` = (y, x) the recipe for ImageNet resizes to `size` (paper section 3).

    The recipe scales the shorter side, takes a 224 x 224 crop and downsamples that. With `rng` the shorter side is
    uniform in [256, 384] and the crop anywhere; without, 224 and the centre. Resizing the crop's place in the original
    does this at once: it is sharper, and a 1 x 100000 image is never enlarged. If `size` is not square, the crop has
    its shape and a longer side of 224.
    """
    y, x = shape
    shorter = IMAGENET_CROP if rng is None else int(rng.integers(IMAGENET_SHORTER[0], IMAGENET_SHORTER[1] + 1))
    scaled = (round(y * shorter / min(y, x)), round(x * shorter / min(y, x)))
    crop = tuple(max(1, round(IMAGENET_CROP * n / max(size))) for n in size)
    room = tuple(a - b for a, b in zip(scaled, crop, strict=True))
    top, left = _corner(room, rng)
    fy, fx = y / scaled[0], x / scaled[1]
    return left * fx, top * fy, min((left + crop[1]) * fx, x), min((top + crop[0]) * fy, y)


# Restoration, with scikit-image


def denoise(image: np.ndarray, kind: str) -> np.ndarray:
    """Denoises by `tv`, `bilateral`, `nlmeans` or `wavelet` (which also needs PyWavelets); `none` does nothing."""
    if kind == "none":
        return image
    from skimage import restoration

    x, axis = _to_float(image)
    if kind == "tv":
        x = restoration.denoise_tv_chambolle(x, weight=0.1, channel_axis=axis)
    elif kind == "bilateral":
        x = restoration.denoise_bilateral(x, sigma_color=0.1, sigma_spatial=1.5, mode="edge", channel_axis=axis)
    elif kind == "nlmeans":
        x = restoration.denoise_nl_means(x, patch_size=5, patch_distance=6, h=0.08, channel_axis=axis)
    elif (sigma := _noise_level(x)) > 0:
        x = restoration.denoise_wavelet(x, sigma, channel_axis=axis, convert2ycbcr=axis is not None)
    return _to_uint8(x, image.shape)


def _noise_level(x: np.ndarray) -> float:
    """Standard deviation of the noise in [y, x] or [y, x, c], from the median second difference.

    0 for a single row or column. (scikit-image's own estimate is NaN for an image enlarged by doubling its pixels.)
    """
    if min(x.shape[:2]) < 2:
        return 0.0
    detail = x[1:, 1:] - x[1:, :-1] - x[:-1, 1:] + x[:-1, :-1]
    # a sum of four noisy values has twice the deviation; 0.6745 is the median absolute value of a unit normal
    return float(np.median(np.abs(detail))) / (2 * 0.6745)


def enhance(image: np.ndarray, kind: str) -> np.ndarray:
    """Raises the contrast; an image of one brightness, or any with `none`, stays as it is.

    `stretch` maps the 2nd to 98th percentile of all channels to the full range. `equalize` and `clahe` equalise the
    histogram of the brightness (V of HSV), over the whole image or by regions.
    """
    if kind == "none":
        return image
    from skimage import color, exposure

    x, axis = _to_float(image)
    if kind == "stretch":
        low, high = np.percentile(x, (2, 98))
        return image if low == high else _to_uint8((x - low) / (high - low), image.shape)
    hsv = None if axis is None else color.rgb2hsv(x)
    value = x if hsv is None else hsv[..., 2]
    if value.min() == value.max():
        return image
    value = exposure.equalize_hist(value) if kind == "equalize" else exposure.equalize_adapthist(value)
    if hsv is None:
        return _to_uint8(value, image.shape)
    hsv[..., 2] = value
    return _to_uint8(color.hsv2rgb(hsv), image.shape)


def _to_float(image: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Values in [0, 1], grey without its channel axis; and the channel axis for scikit-image."""
    x = image.astype(np.float32) / 255
    return (x[..., 0], None) if image.shape[2] == 1 else (x, -1)


def _to_uint8(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8).reshape(shape)
