"""Random keys as arrays: every image, draw and position has one of its own, whatever it is computed together with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def fold_in(keys: jax.Array, numbers: jax.Array | np.ndarray | int) -> jax.Array:
    """`jax.random.fold_in` for arrays of keys and of numbers, whose shapes are broadcast."""
    return jnp.vectorize(jax.random.fold_in)(keys, numbers)
