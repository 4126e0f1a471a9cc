"""The colour palette: pixels to tokens and back (paper section 3.2), fitted by k-means or read from a file.

Encoding runs on the device inside the jitted step, so the input pipeline ships uint8 pixels and never quantises.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from tokenize import TokenError
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax import progress
from igpt_jax.errors import InputError, first_line
from igpt_jax.files import replace_file

AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709


@dataclass(frozen=True, eq=False)
class Palette:
    """V colours; a token is the row number of one of them, and row 0 is a colour like any other."""

    centers: np.ndarray
    """float32 [V, C] in [-1, 1] (a byte x stands at x/127.5 - 1), C 1 for grey or 3 for RGB; a read-only copy."""

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
        """V."""
        return self.centers.shape[0]

    @property
    def channels(self) -> Literal[1, 3]:
        return 1 if self.centers.shape[1] == 1 else 3

    @cached_property
    def _steps(self) -> np.ndarray:
        """Centres in pixel steps from mid-grey, float32 [V, C] in [-127.5, 127.5].

        Rounding to 1/65536 step puts a byte colour exactly on its value again, so ties between byte colours are exact;
        and the difference of a pixel and a centre is exact in float32.
        """
        return (np.rint(self.centers.astype(np.float64) * 127.5 * 65536) / 65536).astype(np.float32)

    @cached_property
    def _bytes(self) -> np.ndarray:
        """uint8 [V, C], computed in float32 as `src/run.py` of the release does."""
        return np.rint((self.centers + np.float32(1)) * np.float32(127.5)).astype(np.uint8)

    def encode(self, images: np.ndarray | jax.Array) -> jax.Array:
        """uint8 [..., C] -> int32 [...], the centre nearest to every pixel; ties go to the lowest row.

        As `color_quantize` in `src/utils.py` of the release. But differences are taken directly, not by
        |c|^2 - 2 x.c: nothing cancels, no matmul precision matters, and XLA fuses the distances into the argmin, so
        they are never stored.
        """
        if images.dtype != np.uint8 or images.shape[-1:] != (self.channels,):
            raise InputError(f"palette: pixels must be uint8 [..., {self.channels}], not {images.dtype} {images.shape}")
        return _nearest(images, self._steps)

    def decode(self, tokens: AnyArray) -> AnyArray:
        """Tokens [...] -> uint8 [..., C], round((c + 1) * 127.5); numpy for numpy, jax for jax.

        An id outside [0, V) is an InputError in a numpy array, and moved to the nearest valid one in a jax array.
        """
        if not isinstance(tokens, np.ndarray):
            return jnp.take(self._bytes, tokens, axis=0, mode="clip")
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.size):
            raise InputError(f"palette: tokens {tokens.min()}..{tokens.max()} leave this palette's 0..{self.size - 1}")
        return self._bytes[tokens]

    def same_as(self, other: Palette) -> bool:
        """Whether both hold the same centres in the same order."""
        return np.array_equal(self.centers, other.centers)

    def checked(self, size: int, channels: int, origin: object) -> Palette:
        """This palette; InputError if it has other sizes than the model and the images."""
        if (self.size, self.channels) != (size, channels):
            wanted = f"model.vocab_size is {size} and data.channels {channels}"
            raise InputError(f"palette {origin}: {self.size} colours of {self.channels} channels; {wanted}")
        return self

    @classmethod
    def levels(cls, n: int) -> Palette:
        """n evenly spaced greys from black to white; 256 loses nothing, 17 are the levels of scikit-learn's digits."""
        if not 2 <= n <= 256:
            raise InputError(f"palette: must have 2 to 256 grey levels; got {n}")
        return cls(np.linspace(-1, 1, n)[:, None])

    @classmethod
    def fit(cls, pixels: np.ndarray, size: int, seed: int) -> Palette:
        """`size` different colours, by k-means over pixels uint8 [..., C] (paper section 3.2, which gives no settings).

        Each distinct colour enters once, weighted by its count. Centres are rounded to byte colours, so decoding and
        encoding again gives every token back. Rows run from dark to light. `seed` is that of the k-means++ start.
        """
        if pixels.dtype != np.uint8 or pixels.shape[-1] not in (1, 3):
            raise InputError(f"palette: pixels must be uint8 [..., 1] or [..., 3], not {pixels.dtype} {pixels.shape}")
        # As one number each: np.unique is slow on rows, and holds up all other threads meanwhile.
        places = 256 ** np.arange(pixels.shape[-1], dtype=np.uint32)[::-1]
        numbers, counts = np.unique(pixels.reshape(-1, pixels.shape[-1]) @ places, return_counts=True)
        colors = numbers[:, None] // places % 256
        if len(colors) < size:
            raise InputError(
                f"palette: the pixels hold {len(colors)} distinct colours, fewer than the {size} asked for; ask "
                "for fewer colours, or fit more images"
            )
        colors = colors.astype(np.float64)
        progress.report(f"fitting {size} colours to {len(colors):,}", 0, 1)
        chosen = colors if len(colors) == size else _kmeans(colors, counts, size, seed)
        progress.report(f"fitting {size} colours to {len(colors):,}", 1, 1)
        # dark to light; where the luminance is equal, by channel values
        order = np.lexsort((*chosen.T[::-1], np.broadcast_to(chosen, (size, 3)) @ _LUMA))
        return cls(chosen[order] / 127.5 - 1)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Palette:
        """Reads a .npy of shape [V, C] in [-1, 1], the format of the release's `kmeans_centers.npy`."""
        try:
            with open(path, "rb") as file:
                return cls(np.lib.format.read_array(file, allow_pickle=False))
        except (OSError, ValueError, SyntaxError, TokenError, MemoryError) as error:  # numpy's, of a damaged header
            expected = "expected a .npy of float32 [V, 1] or [V, 3] in [-1, 1]"
            raise InputError(f"{os.fspath(path)}: {first_line(error)}; {expected}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what `load` reads. The file appears whole or not at all; missing folders are made."""
        with replace_file(path) as file:
            np.save(file, self.centers, allow_pickle=False)


@jax.jit
def _nearest(images: jax.Array, steps: jax.Array) -> jax.Array:
    """uint8 [..., C], float32 [V, C] -> int32 [...]. The batch dims are left alone, so a sharding of them survives."""
    pixels = images.astype(jnp.float32) - 127.5
    rows = jnp.expand_dims(steps.T, range(1, images.ndim))  # [C, 1, ..., 1, V]
    distance = jnp.square(pixels[..., 0, None] - rows[0])
    for c in range(1, len(rows)):
        distance += jnp.square(pixels[..., c, None] - rows[c])
    return jax.lax.argmin(distance, distance.ndim - 1, jnp.int32)


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
