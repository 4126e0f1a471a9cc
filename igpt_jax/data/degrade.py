"""Degradations made on the fly, for models that learn to undo them: noise, blur, compression, scratches, ...

A picture is uint8 [y, x, c] with c = 1 or 3, before and after. Every random choice comes from the generator passed.
`DEGRADATIONS` has one row a kind; `data.degrade` names them:

    KIND              with a strength drawn from the kind's usual range
    KIND:STRENGTH     gaussian:0.2
    KIND:LOW-HIGH     gaussian:0.05-0.3, drawn uniformly
    A+B               B after A: blur:1+gaussian:0.1
"""

from __future__ import annotations

import functools
import io
import math
import re
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from igpt_jax.errors import nearest, require

Degrade = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(uint8 [y, x, c], generator) -> uint8 of the same shape."""

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709


class Degradation(NamedTuple):
    """One kind."""

    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    """(uint8 [y, x, c], strength, generator) -> uint8 of the same shape."""
    usual: tuple[float, float]
    """The range of the strength where none is named."""
    possible: tuple[float, float]
    """The smallest and the largest strength."""
    unit: str
    """Of the strength."""


def gaussian(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds noise of one standard deviation; values outside the range are clipped."""
    return _bytes(image + 255 * strength * rng.standard_normal(image.shape))


def poisson(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Counts photons, 1 / strength^2 of them at white, so black has no noise."""
    photons = strength**-2
    return _bytes(rng.poisson(image / 255 * photons) / photons * 255)


def salt_pepper(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Makes pixels black or white, each with half the probability."""
    draws = rng.random((*image.shape[:2], 1))
    return np.where(draws < strength / 2, 0, np.where(draws < strength, 255, image)).astype(np.uint8)


def blur(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blurs with a Gaussian, edges repeated."""
    del rng
    from scipy import ndimage

    pixels, radius = image.astype(np.float64), math.ceil(4 * strength)
    return _bytes(ndimage.gaussian_filter(pixels, strength, mode="nearest", radius=radius, axes=(0, 1)))


def jpeg(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Compresses with loss."""
    del rng
    with io.BytesIO() as file:
        _picture(image).save(file, "JPEG", quality=round(strength))
        return np.asarray(Image.open(file)).reshape(image.shape)


def downsample(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Replaces blocks of pixels by their mean; the size stays."""
    del rng
    y, x = image.shape[:2]
    small = _picture(image).resize((max(1, round(x / strength)), max(1, round(y / strength))), Image.Resampling.BOX)
    return np.asarray(small.resize((x, y), Image.Resampling.NEAREST)).reshape(image.shape)


def scratches(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Draws straight lines, one pixel wide, light or dark, from edge to edge."""
    y, x = image.shape[:2]
    picture = _picture(image)
    draw = ImageDraw.Draw(picture)
    for _ in range(round(strength)):
        angle, offset = rng.uniform(0, math.pi), rng.uniform(-0.4, 0.4) * min(y, x)
        along, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
        middle = np.array([x / 2, y / 2]) + offset * across
        ends = [tuple((middle + side * (x + y) * along).tolist()) for side in (-1, 1)]
        value = int(rng.integers(200, 256) if rng.random() < 0.5 else rng.integers(0, 56))
        draw.line(ends, fill=value if image.shape[2] == 1 else (value,) * 3)
    return np.asarray(picture).reshape(image.shape)


def stains(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Darkens ellipses with soft edges, a tenth to a third of the picture wide; in colour they are brown."""
    y, x = image.shape[:2]
    stained = image.astype(np.float64)
    for _ in range(round(strength)):
        mask = Image.new("L", (x, y))
        centre, radii = rng.uniform(0, (x, y)), rng.uniform(0.05, 0.17, 2) * min(y, x)
        box = np.concatenate([centre - radii, centre + radii]).tolist()
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.02 * min(y, x)))) / 255
        tint = np.array([0.75, 0.55, 0.35]) if image.shape[2] == 3 else np.array([0.55])
        opacity = soft[..., None] * rng.uniform(0.5, 1)
        stained *= 1 - opacity * (1 - tint)
    return _bytes(stained)


def grey(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Removes colour: at 1 all of it, so that a model learns to colour. A grey picture stays as it is."""
    del rng
    if image.shape[2] == 1:
        return image
    luma = (image @ _LUMA)[..., None]
    return _bytes(image + strength * (luma - image))


DEGRADATIONS: dict[str, Degradation] = {
    "gaussian": Degradation(gaussian, (0.05, 0.3), (0, 10), "standard deviation, where white is 1"),
    "poisson": Degradation(poisson, (0.05, 0.3), (1e-3, 10), "standard deviation at white, where white is 1"),
    "salt_pepper": Degradation(salt_pepper, (0.02, 0.2), (0, 1), "share of the pixels"),
    "blur": Degradation(blur, (0.5, 2), (0.1, 100), "standard deviation in pixels"),
    "jpeg": Degradation(jpeg, (10, 50), (1, 95), "quality of libjpeg: less is worse"),
    "downsample": Degradation(downsample, (2, 4), (1, 64), "factor: 2 keeps a quarter of the pixels"),
    "scratches": Degradation(scratches, (1, 4), (0, 1000), "how many"),
    "stains": Degradation(stains, (1, 3), (0, 1000), "how many"),
    "grey": Degradation(grey, (1, 1), (0, 1), "share of the colour that is lost"),
}


class Step(NamedTuple):
    """One degradation of a spec, with the range of its strength."""

    kind: str
    low: float
    high: float


def make_degrade(specs: Sequence[str], *, train: bool) -> Degrade | None:
    """The degradation that `data.degrade` asks for; None for no spec. It can be pickled.

    Each picture gets one of the specs, drawn uniformly. With `train` everything is drawn from the generator passed;
    without, from the picture itself, so that a held-out picture is always degraded alike, whatever the others are.
    """
    parsed = tuple(parse_spec(spec) for spec in specs)
    if not parsed:
        return None
    return functools.partial(_degrade if train else _degrade_alike, parsed)


def _degrade(specs: Sequence[Sequence[Step]], image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture with one of the specs applied, drawn uniformly."""
    for kind, low, high in specs[int(rng.integers(len(specs)))]:
        image = DEGRADATIONS[kind].apply(image, float(rng.uniform(low, high)), rng)
    return np.ascontiguousarray(image)


def _degrade_alike(specs: Sequence[Sequence[Step]], image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same, with random numbers that belong to the picture."""
    del rng
    return _degrade(specs, image, np.random.default_rng(zlib.crc32(np.ascontiguousarray(image).data)))


def parse_spec(spec: str, key: str = "data.degrade") -> tuple[Step, ...]:
    """The steps of a spec, in order: `blur:1+gaussian:0.1` -> two. A message names `key`."""
    return tuple(_parse_step(part, spec, key) for part in spec.split("+"))


def _parse_step(part: str, spec: str, key: str) -> Step:
    kind, colon, strength = part.strip().partition(":")
    unknown = f"{spec!r}: no degradation {kind!r}{nearest(kind, DEGRADATIONS)}; there are {', '.join(DEGRADATIONS)}"
    require(kind in DEGRADATIONS, key, unknown)
    row = DEGRADATIONS[kind]
    if not colon:
        return Step(kind, *row.usual)
    number = r"(\d+\.?\d*|\.\d+)"
    match = re.fullmatch(f"{number}(?:-{number})?", strength)
    low, high = row.possible
    form = f"{spec!r}: {kind} takes {kind}:STRENGTH or {kind}:LOW-HIGH, between {low:g} and {high:g} ({row.unit})"
    require(match is not None, key, form)
    assert match is not None
    first, last = float(match[1]), float(match[2] or match[1])
    require(low <= first <= last <= high, key, form)
    return Step(kind, first, last)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
