"""The norm and the activation of the release, with gradients that keep as little as they can.

Autodiff would keep several float32 arrays of each: for iGPT-S on one GPU about half of all that a step keeps. The
backward passes here compute them again from the input, in float32. They have no forward-mode derivative; the plain
functions have (compute.forward_mode).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

EPSILON = 1e-5


def plain_rms_norm(x: jax.Array, g_D: jax.Array) -> jax.Array:
    """x * rsqrt(mean(x^2) + 1e-5) * g over the last dim, in float32 (release, `norm`). The result has the type of x."""
    return _rms_norm_fwd(x, g_D)[0]


def _rms_norm_fwd(x: jax.Array, g_D: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + EPSILON)
    return (x32 * scale * _over_last_dim(g_D, x)).astype(x.dtype), (x, g_D, scale)


def _rms_norm_bwd(saved: tuple[jax.Array, jax.Array, jax.Array], d_y: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, g_D, scale = saved
    normed, d_y = x.astype(jnp.float32) * scale, d_y.astype(jnp.float32)
    d_normed = d_y * _over_last_dim(g_D, x)
    d_x = scale * (d_normed - normed * jnp.mean(d_normed * normed, axis=-1, keepdims=True))
    return d_x.astype(x.dtype), jnp.sum(d_y * normed, axis=tuple(range(x.ndim - 1)))


def _over_last_dim(g_D: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.expand_dims(g_D, tuple(range(x.ndim - 1)))


rms_norm = jax.custom_vjp(plain_rms_norm)
rms_norm.defvjp(_rms_norm_fwd, _rms_norm_bwd)


def plain_gelu2(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x) (release, `gelu2`)."""
    return x * jax.nn.sigmoid(1.702 * x)


def _gelu2_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gelu2(x), x


def _gelu2_bwd(x: jax.Array, d_y: jax.Array) -> tuple[jax.Array]:
    x32 = x.astype(jnp.float32)
    gate = jax.nn.sigmoid(1.702 * x32)
    return ((d_y.astype(jnp.float32) * gate * (1 + 1.702 * x32 * (1 - gate))).astype(x.dtype),)


gelu2 = jax.custom_vjp(plain_gelu2)
gelu2.defvjp(_gelu2_fwd, _gelu2_bwd)
