"""The parts of the decoder, as pure Linen modules: norm, projection, attention, feed-forward layer and block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from igpt_jax.config import ComputeConfig, ModelConfig
from igpt_jax.model.attention import Attend, Mask, attend, attend_cached
from igpt_jax.model.cache import LayerCache
from igpt_jax.model.pointwise import gelu2, rms_norm


class Hooks(NamedTuple):
    """What a compiler needs to be told where several devices share the work; `igpt_jax.parallel.hooks` has them."""

    weight: Callable[[jax.Array, int], jax.Array] | None = None
    """(a projection's weight, its dim of width D) -> the same weight, with a gradient that is made in another way."""
    kernel: Callable[[Attend], Attend] | None = None
    """An attention kernel that XLA cannot split -> one that works on each device's part."""
    stream: Callable[[jax.Array], jax.Array] | None = None
    """The residual stream [B, T, D] between blocks -> the same, kept split over images."""


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x^2) + 1e-5) * g in float32. No mean is subtracted and there is no bias (release, `norm`)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        g: Any = self.param("g", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return rms_norm(x, g)


class Projection(nn.Module):
    """A weight `w` and perhaps a bias `b`, stored in float32 and used in the input's type.

    All tokens of a batch are the rows of one matrix: XLA's product of two matrices is far faster on CPUs than the same
    product with batch dims, and so is that of the gradient.
    """

    shape: tuple[int, ...]
    """Of `w`, as in the release."""
    reads_last: bool
    """True: the last dim of `w` is contracted with the input's last dim; the others are the output's. False: the
    reverse."""
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


class Attention(nn.Module):
    """Multi-head self-attention (release, `attn`)."""

    cfg: ModelConfig
    compute: ComputeConfig
    mask: Mask
    hooks: Hooks

    def setup(self) -> None:
        d, n = self.cfg.d_model, self.cfg.n_layer
        shape, bias = (self.cfg.n_head, self.cfg.head_dim, d), self.cfg.use_bias
        self.q_proj = Projection(shape, True, 2, d**-0.5, bias, self.hooks)
        self.k_proj = Projection(shape, True, 2, d**-0.5, bias, self.hooks)
        self.v_proj = Projection(shape, True, 2, d**-0.5, bias, self.hooks)
        self.c_proj = Projection(shape, False, 2, (d * n) ** -0.5, bias, self.hooks)

    def __call__(
        self, x_BTD: jax.Array, cache: LayerCache | None, at: jax.Array | int
    ) -> tuple[jax.Array, LayerCache | None]:
        """The update [B, T, D], and the cache with the new keys and values."""
        q_BTHK, k_BTHK, v_BTHK = self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)
        if cache is not None:
            cache = cache.written(k_BTHK, v_BTHK, at)
        if cache is None or (isinstance(at, int) and at == 0):  # nothing lies before these slots
            if cache is not None:  # later slots read the same numbers
                k_BTHK, v_BTHK = cache.as_read(k_BTHK), cache.as_read(v_BTHK)
            out_BTHK = attend(q_BTHK, k_BTHK, v_BTHK, self.mask, self.compute.attention, self.hooks.kernel)
        else:
            out_BTHK = attend_cached(q_BTHK, cache, at, self.mask)
        return self.c_proj(out_BTHK), cache


class MLP(nn.Module):
    """D -> 4 D -> D around gelu2 (release, `mlp`)."""

    cfg: ModelConfig
    hooks: Hooks

    def setup(self) -> None:
        d, bias = self.cfg.d_model, self.cfg.use_bias
        self.c_fc = Projection((d, 4 * d), False, 0, 0.02, bias, self.hooks)
        self.c_proj = Projection((4 * d, d), False, 1, 0.02, bias, self.hooks)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.c_proj(gelu2(self.c_fc(x)))


class BlockOutput(NamedTuple):
    """What a block yields beside the residual stream. Under jit, an output that nobody uses costs nothing."""

    normed_BTD: jax.Array
    """What its attention reads: the normed stream, n^l of paper section 2.4."""
    pooled_BD: jax.Array
    """float32: its mean over slots."""
    cache: LayerCache | None


class Block(nn.Module):
    """Pre-norm residual block: h += attn(ln_1(h)); h += mlp(ln_2(h)) (paper section 2.2)."""

    cfg: ModelConfig
    compute: ComputeConfig
    mask: Mask
    hooks: Hooks

    def setup(self) -> None:
        self.ln_1, self.ln_2 = RMSNorm(), RMSNorm()
        self.attn = Attention(self.cfg, self.compute, self.mask, self.hooks)
        self.mlp = MLP(self.cfg, self.hooks)

    def __call__(
        self, x_BTD: jax.Array, cache: LayerCache | None = None, at: jax.Array | int = 0
    ) -> tuple[jax.Array, BlockOutput]:
        """The stream after the block, and what else may be wanted of it."""
        normed_BTD = self.ln_1(x_BTD)
        update_BTD, cache = self.attn(normed_BTD, cache, at)
        x_BTD = x_BTD + update_BTD
        x_BTD = x_BTD + self.mlp(self.ln_2(x_BTD))
        if self.hooks.stream is not None:
            x_BTD = self.hooks.stream(x_BTD)
        return x_BTD, BlockOutput(normed_BTD, normed_BTD.astype(jnp.float32).mean(axis=1), cache)
