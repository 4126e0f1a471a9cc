"""Checksums of arrays, computed on the devices that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from igpt_jax.parallel.mesh import path_name


def checksums(items: Mapping[str, Any]) -> dict[str, int]:
    """Path -> checksum of every array, computed where the array lies; the same on every mesh."""
    sums = jax.device_get(_checksums(items))
    return {path_name(path): int(x) for path, x in jax.tree.leaves_with_path(sums)}


@jax.jit
def _checksums(tree: Any) -> Any:
    """Sum of all 4-byte words, each times an odd number of its own, modulo 2^32. It changes with any single bit."""

    def one(x: jax.Array) -> jax.Array:
        if x.dtype.itemsize != 4:
            raise ValueError(f"checksums are of 4-byte types, not {x.dtype}")
        words = jax.lax.bitcast_convert_type(x, jnp.uint32)
        place, stride = jnp.zeros(x.shape, jnp.uint32), 1
        for dim in reversed(range(x.ndim)):
            place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, dim) * jnp.uint32(stride % 2**32)
            stride *= x.shape[dim]
        return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)

    return jax.tree.map(one, tree)
