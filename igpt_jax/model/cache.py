"""Keys and values of the slots decoded so far, as an explicit pytree: argument and return value."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from igpt_jax.config import ComputeConfig, ModelConfig


class LayerCache(NamedTuple):
    """Keys and values of one layer, each [B, H, S, K]; rows that are not filled hold zeros. In int8 every slot and head
    has a scale, float32 [B, H, S, 1]: its largest value is 127 times the scale."""

    k: jax.Array
    v: jax.Array
    k_scale: jax.Array | None = None
    v_scale: jax.Array | None = None

    def updated(self, k_BTHK: jax.Array, v_BTHK: jax.Array, at: jax.Array | int) -> LayerCache:
        """The cache with the keys and values of T slots in rows at .. at + T - 1; `at` is a scalar or int [B]."""
        (k, k_scale), (v, v_scale) = (quantize(x.swapaxes(1, 2), self.k.dtype) for x in (k_BTHK, v_BTHK))
        rows = LayerCache(k, v, k_scale, v_scale)
        if jnp.ndim(at) == 0:
            return jax.tree.map(lambda cache, new: jax.lax.dynamic_update_slice(cache, new, (0, 0, at, 0)), self, rows)

        def write(cache_HSK: jax.Array, new_HTK: jax.Array, at: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice(cache_HSK, new_HTK, (0, at, 0))

        return jax.tree.map(lambda cache, new: jax.vmap(write)(cache, new, jnp.asarray(at)), self, rows)

    def dequantize(self, x: jax.Array) -> jax.Array:
        """Keys or values [..., K] as later slots read them from the cache."""
        values, scale = quantize(x, self.k.dtype)
        return values.astype(x.dtype) if scale is None else (values * scale).astype(x.dtype)


def quantize(x: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array | None]:
    """Values [..., K] in another type; for int8 also their scale, float32 [..., 1]."""
    if dtype != jnp.int8:
        return x.astype(dtype), None
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=-1, keepdims=True) / 127
    return jnp.round(x / jnp.maximum(scale, 1e-30)).astype(jnp.int8), scale


Cache = tuple[LayerCache, ...]
"""One entry a layer. A single array over all layers would be copied layer by layer in every step."""


def init_cache(cfg: ModelConfig, compute: ComputeConfig, batch: int, length: int, dtype: str = "auto") -> Cache:
    """An empty cache for `batch` images and `length` slots, prefix slots included.

    `dtype` is float32, bfloat16, int8, or auto for the compute type.
    """
    kept = compute_dtype(compute) if dtype == "auto" else jnp.dtype(dtype)
    zeros = jnp.zeros((batch, cfg.n_head, length, cfg.head_dim), kept)
    scale = jnp.zeros((batch, cfg.n_head, length, 1), jnp.float32) if kept == jnp.int8 else None
    return (LayerCache(zeros, zeros, scale, scale),) * cfg.n_layer


def cache_row_bytes(cfg: ModelConfig, compute: ComputeConfig, dtype: str = "auto") -> int:
    """Bytes of one slot of one image, over all layers."""
    row = jax.eval_shape(lambda: init_cache(cfg, compute, 1, 1, dtype))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(row))


def grow_cache(cache: Cache, length: int) -> Cache:
    """The same cache with room for `length` slots."""
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0))), cache)


def compute_dtype(compute: ComputeConfig) -> jnp.dtype:
    """float32 or bfloat16; 'auto' is float32 when this process's default device is a CPU."""
    if compute.dtype == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(compute.dtype)
