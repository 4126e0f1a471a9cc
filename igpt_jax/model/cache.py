"""Keys and values of the slots decoded so far, as an explicit pytree: argument and return value."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from igpt_jax.config import ComputeConfig, ModelConfig


class LayerCache(NamedTuple):
    """Keys and values of one layer, each [B, H, S, K] in the compute type. Rows that are not filled hold zeros."""

    k: jax.Array
    v: jax.Array

    def written(self, k_BTHK: jax.Array, v_BTHK: jax.Array, at: jax.Array | int) -> LayerCache:
        """The cache with the keys and values of T slots in rows at .. at + T - 1; `at` is a scalar or int [B]."""
        rows = LayerCache(k_BTHK.swapaxes(1, 2), v_BTHK.swapaxes(1, 2))
        if jnp.ndim(at) == 0:
            return jax.tree.map(lambda cache, new: jax.lax.dynamic_update_slice(cache, new, (0, 0, at, 0)), self, rows)

        def write(cache_HSK: jax.Array, new_HTK: jax.Array, at: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice(cache_HSK, new_HTK, (0, at, 0))

        return jax.tree.map(lambda cache, new: jax.vmap(write)(cache, new, jnp.asarray(at)), self, rows)


Cache = tuple[LayerCache, ...]
"""One entry a layer. A single array over all layers would be copied layer by layer in every step."""


def init_cache(cfg: ModelConfig, compute: ComputeConfig, batch: int, length: int) -> Cache:
    """An empty cache for `batch` images and `length` slots, prefix slots included."""
    zeros = jnp.zeros((batch, cfg.n_head, length, cfg.head_dim), compute_dtype(compute))
    return (LayerCache(zeros, zeros),) * cfg.n_layer


def grow_cache(cache: Cache, length: int) -> Cache:
    """The same cache with room for `length` slots."""
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0))), cache)


def compute_dtype(compute: ComputeConfig) -> jnp.dtype:
    """float32 or bfloat16; 'auto' is float32 when this process's default device is a CPU."""
    if compute.dtype == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(compute.dtype)
