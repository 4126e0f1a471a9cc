"""The parts of the decoder, as pure Linen modules: norm, attention and block."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from igpt_jax.config import ComputeConfig, ModelConfig
from igpt_jax.model.attention import Mask, attend, attend_cached
from igpt_jax.model.cache import LayerCache
from igpt_jax.model.mlp import MLPS
from igpt_jax.model.pointwise import plain_rms_norm, rms_norm
from igpt_jax.model.positions import POSITIONS, Places
from igpt_jax.model.projection import Hooks, Projection


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x^2) + 1e-5) * g in float32. No mean is subtracted and there is no bias (release, `norm`)."""

    forward_mode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        g: Any = self.param("g", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return (plain_rms_norm if self.forward_mode else rms_norm)(x, g)


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
