"""Random keys: one stream for each purpose, and one key for every image, draw and position."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

_PURPOSES = ("init", "train", "eval", "sample", "draft")


def stream(seed: int, purpose: Literal["init", "train", "eval", "sample", "draft"]) -> jax.Array:
    """The key from which everything for a purpose is drawn, so that no purpose repeats the numbers of another."""
    return jax.random.fold_in(jax.random.key(seed), _PURPOSES.index(purpose))


def fold_in(keys: jax.Array, numbers: jax.Array | np.ndarray | int) -> jax.Array:
    """`jax.random.fold_in` for arrays of keys and of numbers, whose shapes are broadcast."""
    return jnp.vectorize(jax.random.fold_in)(keys, numbers)
