"""The colour palette: pixels to tokens and back (paper section 3.2), fitted by k-means or read from a file.

Encoding runs on the device inside the jitted step, so the input pipeline ships uint8 pixels and never quantises.
Which palette a run uses, and where its file lies, is decided by the caller.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.config import InputError

AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709
_GRID = 2.0**16  # places for a centre in one pixel step


@dataclass(frozen=True, eq=False)
class Palette:
    """V colours; a token is the row number of one of them, and row 0 is a colour like any other.

    Attributes:
      centers: float32 [V, C] in [-1, 1] (a byte x stands at x/127.5 - 1), C 1 for grey or 3 for RGB; a read-only copy.

    Raises:
      InputError: `centers` is not of that shape or leaves [-1, 1].
    """

    centers: np.ndarray

    def __post_init__(self) -> None:
        centers = np.array(self.centers, dtype=np.float32)
        if centers.ndim != 2 or centers.shape[0] < 1 or centers.shape[1] not in (1, 3):
            raise InputError(f"palette: centres must have shape [V, 1] or [V, 3], not {list(centers.shape)}")
        if not (np.abs(centers) <= 1).all():  # false for NaN too
            raise InputError("palette: centres must be numbers in [-1, 1]; a byte x stands at x/127.5 - 1")
        centers.setflags(write=False)
        object.__setattr__(self, "centers", centers)

    @property
    def size(self) -> int:
        """Number of colours, V."""
        return self.centers.shape[0]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.centers.shape[1]

    @cached_property
    def _steps(self) -> np.ndarray:
        """Centres in pixel steps from mid-grey, float32 [V, C] in [-127.5, 127.5].

        On the grid a byte colour, whose float32 centre is off by rounding, falls on its own value again, so ties
        between byte colours are exact; and the difference of a pixel and a centre is exact in float32.
        """
        return (np.rint(self.centers.astype(np.float64) * 127.5 * _GRID) / _GRID).astype(np.float32)

    @cached_property
    def _bytes(self) -> np.ndarray:
        """uint8 [V, C], computed in float32 as `src/run.py` of the release does."""
        return np.rint((self.centers + np.float32(1)) * np.float32(127.5)).astype(np.uint8)

    def encode(self, images: np.ndarray | jax.Array) -> jax.Array:
        """The nearest centre of every pixel, as `color_quantize` in `src/utils.py` of the release.

        Differences are taken directly, not by |c|^2 - 2 x.c: nothing cancels, no matmul precision matters, and XLA
        fuses the distances into the argmin, so they are never stored.

        Args:
          images: uint8 [..., C].

        Returns:
          int32 [...], the row of the centre at the smallest squared distance from x/127.5 - 1; ties to the lowest row.

        Raises:
          InputError: other than uint8, or another number of channels.
        """
        if images.dtype != np.uint8:
            raise InputError(f"palette: encode takes uint8 pixels in 0..255, not {images.dtype}")
        if images.ndim < 1 or images.shape[-1] != self.channels:
            raise InputError(f"palette: pixels {list(images.shape)} do not end in its {self.channels} channel(s)")
        return _nearest(images, self._steps)

    def decode(self, tokens: AnyArray) -> AnyArray:
        """The colour of every token.

        Args:
          tokens: integers [...] in [0, V). In a jax array an id outside is moved to the nearest valid one.

        Returns:
          uint8 [..., C], round((c + 1) * 127.5); numpy for numpy, jax for jax.

        Raises:
          InputError: not integers, or a numpy array holds an id outside [0, V).
        """
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise InputError(f"palette: decode takes integer tokens, not {tokens.dtype}")
        if not isinstance(tokens, np.ndarray):
            return jnp.take(self._bytes, tokens, axis=0, mode="clip")
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.size):
            raise InputError(f"palette: tokens {tokens.min()}..{tokens.max()} leave this palette's 0..{self.size - 1}")
        return self._bytes[tokens]

    def same_as(self, other: Palette) -> bool:
        """Whether both hold the same centres in the same order."""
        return np.array_equal(self.centers, other.centers)

    @classmethod
    def levels(cls, n: int) -> Palette:
        """n evenly spaced greys from black to white; 256 loses nothing, 17 are the levels of scikit-learn's digits.

        Raises:
          InputError: n is not in 2..256.
        """
        if not 2 <= n <= 256:
            raise InputError(f"palette: between 2 and 256 grey levels are possible, not {n}")
        return cls(np.linspace(-1, 1, n)[:, None])

    @classmethod
    def fit(cls, pixels: np.ndarray, size: int, seed: int) -> Palette:
        """k-means over the pixels (paper section 3.2, which gives neither sample nor settings).

        Each distinct colour enters once, weighted by its count. Centres are rounded to byte colours: decoding rounds
        them anyway, and so decoding and encoding again gives every token back. Rows run from dark to light.

        Args:
          pixels: uint8 [..., C], C 1 or 3.
          size: colours wanted, V.
          seed: of the k-means++ start; the same pixels, size and seed give the same palette.

        Returns:
          A palette of exactly `size` different colours.

        Raises:
          InputError: other pixels than these, or fewer distinct colours among them than `size`.
        """
        if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[-1] not in (1, 3):
            raise InputError(f"palette: fit takes uint8 [N, 1] or [N, 3], not {pixels.dtype} {list(pixels.shape)}")
        if size < 1:
            raise InputError(f"palette: size must be at least 1, not {size}")
        colors, counts = _distinct(pixels.reshape(-1, pixels.shape[-1]))
        if len(colors) < size:
            raise InputError(
                f"palette: the pixels hold {len(colors)} distinct colours, fewer than the {size} asked for; "
                f"ask for at most {len(colors)} (model.vocab_size) or fit on more images (palette.fit_images)"
            )
        chosen = colors if len(colors) == size else _kmeans(colors, counts, size, seed)
        # dark to light; channel values settle equal luminance
        order = np.lexsort((*chosen.T[::-1], chosen @ _LUMA if chosen.shape[1] == 3 else chosen[:, 0]))
        return cls(chosen[order] / 127.5 - 1)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Palette:
        """Reads a .npy of shape [V, C] in [-1, 1], the format of the release's `kmeans_centers.npy`.

        Raises:
          InputError: no such file, or it is not such an array; the message names the file.
        """
        wanted = "wanted is a .npy of float32 [V, 1] or [V, 3] in [-1, 1]"
        try:
            with open(path, "rb") as file:
                centers = np.lib.format.read_array(file, allow_pickle=False)
            if not np.issubdtype(centers.dtype, np.floating):
                raise InputError(f"it holds {centers.dtype}")
            return cls(centers)
        except InputError as error:
            raise InputError(f"{os.fspath(path)}: {error}; {wanted}") from None
        except OSError as error:
            raise InputError(f"{os.fspath(path)}: {error.strerror}; {wanted}") from None
        except (ValueError, SyntaxError, TokenError, MemoryError):  # what numpy lets through from a damaged header
            raise InputError(f"{os.fspath(path)}: not a readable .npy file; {wanted}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what `load` reads. The file appears whole or not at all; missing folders are made."""
        with replace_file(path) as file:
            np.save(file, self.centers, allow_pickle=False)


@jax.jit
def _nearest(images: jax.Array, steps: jax.Array) -> jax.Array:
    """uint8 [..., C], float32 [V, C] -> int32 [...]. The batch dims are left alone, so a sharding of them survives."""
    pixels = images.astype(jnp.float32) - 127.5
    size, channels = steps.shape
    rows = steps.T.reshape((channels,) + (1,) * (images.ndim - 1) + (size,))
    distance = jnp.square(pixels[..., 0, None] - rows[0])
    for c in range(1, channels):
        distance += jnp.square(pixels[..., c, None] - rows[c])
    return jax.lax.argmin(distance, distance.ndim - 1, jnp.int32)


def _distinct(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, C] -> the distinct colours, float64 [U, C] in ascending order, and how often each occurs, [U]."""
    shifts = np.arange(pixels.shape[1] - 1, -1, -1, dtype=np.uint32) * 8
    # one number per colour sorts far faster than rows do
    codes, counts = np.unique((pixels.astype(np.uint32) << shifts).sum(-1, dtype=np.uint32), return_counts=True)
    return (codes[:, None] >> shifts & 255).astype(np.float64), counts


def _kmeans(colors: np.ndarray, counts: np.ndarray, size: int, seed: int) -> np.ndarray:
    """float64 byte colours [U, C] with U > size -> `size` different byte colours, float64 [size, C]."""
    from sklearn.cluster import KMeans  # takes a second to import
    from sklearn.metrics import pairwise_distances_argmin_min

    # On 300 000 emoji colours, V = 512: another start or 300 iterations changed 0.02 dB; MiniBatchKMeans lost 5 dB.
    kmeans = KMeans(size, max_iter=100, random_state=seed)  # one k-means++ start
    kmeans.fit(colors, sample_weight=counts)
    chosen = np.unique(np.rint(kmeans.cluster_centers_), axis=0)
    while len(chosen) < size:  # rounding merged centres: the colour that the palette serves worst takes the free place
        _, distance = pairwise_distances_argmin_min(colors, chosen)
        chosen = np.vstack([chosen, colors[np.argmax(counts * distance**2)]])
    return chosen


def psnr(images: np.ndarray, reconstructed: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all values of two uint8 arrays of one shape; inf when they are equal.

    Raises:
      InputError: other dtypes, or the shapes differ.
    """
    if images.dtype != np.uint8 or reconstructed.dtype != np.uint8 or images.shape != reconstructed.shape:
        what = f"{images.dtype} {list(images.shape)} and {reconstructed.dtype} {list(reconstructed.shape)}"
        raise InputError(f"psnr: two uint8 arrays of one shape are compared, not {what}")
    difference = images.astype(np.int32) - reconstructed
    error = np.mean(np.square(difference), dtype=np.float64)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes its name only when the block ends well, so no reader sees half of it."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")  # process ids repeat on other hosts
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
