"""The parts of the decoder, as pure Linen modules: projections, norm, attention, feed-forward layers and block."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from igpt_jax.config import ComputeConfig, ModelConfig
from igpt_jax.model.attention import Attend, Mask, attend, attend_cached
from igpt_jax.model.cache import LayerCache


class Hooks(NamedTuple):
    """Optional sharding hooks; `igpt_jax.parallel.hooks` has them."""

    weight: Callable[[jax.Array, int], jax.Array] | None = None
    """(a projection's weight, its dim of width D) -> the same weight, with a gradient that is made in another way."""
    kernel: Callable[[Attend], Attend] | None = None
    """An attention kernel that XLA cannot split -> one that works on each device's part."""
    residual: Callable[[jax.Array], jax.Array] | None = None
    """The residual stream [B, T, D] between blocks -> the same, kept split over images."""


class Projection(nn.Module):
    """A weight `w` and perhaps a bias `b`, stored in float32 and used in the input's type.

    All tokens of a batch are the rows of one matrix: on CPUs XLA's product of two matrices, and its gradient, is far
    faster than the same product with batch dims.
    """

    shape: tuple[int, ...]
    reads_last: bool
    """True: the last dim of `w` is contracted with the input's last dim. False: all others, with the input's last."""
    width_dim: int
    """The dim of `w` that is the model's width D."""
    stddev: float
    use_bias: bool = False
    hooks: Hooks = Hooks()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w: Any = self.param("w", nn.initializers.normal(self.stddev), self.shape, jnp.float32).astype(x.dtype)
        *first, last = self.shape
        if self.hooks.weight is not None:
            w = self.hooks.weight(w, self.width_dim)
        matrix = w.reshape(-1, last).T if self.reads_last else w.reshape(-1, last)
        outputs = tuple(first) if self.reads_last else (last,)
        batch = x.shape[: x.ndim - (1 if self.reads_last else len(first))]
        y = (x.reshape(math.prod(batch), -1) @ matrix).reshape(*batch, *outputs)
        if not self.use_bias:
            return y
        b = self.param("b", nn.initializers.zeros, outputs, jnp.float32).astype(x.dtype)
        return y + jnp.expand_dims(b, tuple(range(len(batch))))


# The norm and the activation keep as little as they can for the backward pass, which computes the rest again from the
# input, in float32. Autodiff would keep several float32 arrays of each: for iGPT-S on one GPU about half of all that a
# step keeps. These have no forward-mode derivative; the plain functions have (compute.forward_mode).
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


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x^2) + 1e-5) * g in float32. No mean is subtracted and there is no bias (release, `norm`)."""

    forward_mode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        g: Any = self.param("g", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return (plain_rms_norm if self.forward_mode else rms_norm)(x, g)


class Places(NamedTuple):
    """Grid positions of slots, int [B, T] or [1, T], in raster order; -1 for none (prefix slots, a start's source)."""

    target: jax.Array
    source: jax.Array


class Positions(NamedTuple):
    """One way to tell a slot its target and its source (`Inputs`)."""

    learned: bool = False
    """Whether vectors of tables are added to the slots: `wpe`, and for other orders and clips `wpe_source`, `wpe_frame`
    (release)."""
    turn: Callable[[ModelConfig, jax.Array, jax.Array], jax.Array] | None = None
    """(cfg, x [B, T, H, K], positions int [B, T]) -> the same shape. Queries are turned by their slot's target, keys by
    its source (`Places`); keys are cached turned, so every attention backend serves."""


POSITIONS: dict[str, Positions] = {"learned": Positions(learned=True)}
"""model.positions -> the way."""


class Attention(nn.Module):
    """Multi-head self-attention (release, `attn`)."""

    cfg: ModelConfig
    compute: ComputeConfig
    mask: Mask
    hooks: Hooks

    def setup(self) -> None:
        d, n = self.cfg.d_model, self.cfg.n_layer
        shape, bias = (self.cfg.n_head, self.cfg.head_dim, d), self.cfg.use_bias
        heads = functools.partial(Projection, shape, width_dim=2, use_bias=bias, hooks=self.hooks)
        self.q_proj = heads(reads_last=True, stddev=d**-0.5)
        self.k_proj = heads(reads_last=True, stddev=d**-0.5)
        self.v_proj = heads(reads_last=True, stddev=d**-0.5)
        self.c_proj = heads(reads_last=False, stddev=(d * n) ** -0.5)

    def __call__(
        self, x_BTD: jax.Array, places: Places, cache: LayerCache | None, at: jax.Array | int
    ) -> tuple[jax.Array, LayerCache | None]:
        """The update [B, T, D], and the cache with the new keys and values."""
        q_BTHK, k_BTHK, v_BTHK = self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)
        if (turn := POSITIONS[self.cfg.positions].turn) is not None:
            q_BTHK, k_BTHK = turn(self.cfg, q_BTHK, places.target), turn(self.cfg, k_BTHK, places.source)
        if cache is not None:
            cache = cache.updated(k_BTHK, v_BTHK, at)
        if cache is None or (isinstance(at, int) and at == 0):  # nothing lies before these slots
            if cache is not None:  # later slots read the same numbers
                k_BTHK, v_BTHK = cache.dequantize(k_BTHK), cache.dequantize(v_BTHK)
            out_BTHK = attend(
                q_BTHK, k_BTHK, v_BTHK, self.mask, self.compute.attention, self.hooks.kernel, self.compute.forward_mode
            )
        else:
            out_BTHK = attend_cached(q_BTHK, cache, at, self.mask)
        return self.c_proj(out_BTHK), cache


class MLP(nn.Module):
    """D -> F -> D around gelu2 (release, `mlp`)."""

    cfg: ModelConfig
    compute: ComputeConfig
    hooks: Hooks

    def setup(self) -> None:
        d, f = self.cfg.d_model, mlp_width(self.cfg)
        bias, hooks = self.cfg.use_bias, self.hooks
        layer = functools.partial(Projection, reads_last=False, stddev=0.02, use_bias=bias, hooks=hooks)
        self.c_fc = layer((d, f), width_dim=0)
        self.c_proj = layer((f, d), width_dim=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        activation = plain_gelu2 if self.compute.forward_mode else gelu2
        return self.c_proj(activation(self.c_fc(x)))


class Mlp(NamedTuple):
    """One kind of feed-forward layer; `AXES` has rows for its parameters, h/mlp/..."""

    layer: Callable[[ModelConfig, ComputeConfig, Hooks], nn.Module]
    width: Callable[[ModelConfig], int] = lambda cfg: 4 * cfg.d_model
    """F, between the two projections."""


MLPS: dict[str, Mlp] = {"gelu2": Mlp(MLP)}
"""model.mlp -> the kind."""


def mlp_width(cfg: ModelConfig) -> int:
    """F of a model."""
    return MLPS[cfg.mlp].width(cfg)


class BlockOutput(NamedTuple):
    """What a block yields beside the residual stream. Under jit, an output that nobody uses costs nothing."""

    normed_BTD: jax.Array  # what its attention reads: n^l of paper section 2.4
    pooled_BD: jax.Array  # float32: its mean over slots
    cache: LayerCache | None


class Block(nn.Module):
    """Pre-norm residual block: h += attn(ln_1(h)); h += mlp(ln_2(h)) (paper section 2.2)."""

    cfg: ModelConfig
    compute: ComputeConfig
    mask: Mask
    hooks: Hooks

    def setup(self) -> None:
        self.ln_1, self.ln_2 = RMSNorm(self.compute.forward_mode), RMSNorm(self.compute.forward_mode)
        self.attn = Attention(self.cfg, self.compute, self.mask, self.hooks)
        self.mlp = MLPS[self.cfg.mlp].layer(self.cfg, self.compute, self.hooks)

    def __call__(
        self, x_BTD: jax.Array, places: Places, cache: LayerCache | None = None, at: jax.Array | int = 0
    ) -> tuple[jax.Array, BlockOutput]:
        normed_BTD = self.ln_1(x_BTD)
        update_BTD, cache = self.attn(normed_BTD, places, cache, at)
        x_BTD = x_BTD + update_BTD
        x_BTD = x_BTD + self.mlp(self.ln_2(x_BTD))
        if self.hooks.residual is not None:
            x_BTD = self.hooks.residual(x_BTD)
        return x_BTD, BlockOutput(normed_BTD, normed_BTD.astype(jnp.float32).mean(axis=1), cache)
