"""The decoder of Image GPT as pure Linen modules: tokens in, float32 logits out, no mutable state.

Dims are suffixes: B batch, T query position, S key position, P prompt position, N layer, H head, K head size, D width,
F feed-forward width, V palette, C class. Parameter names and shapes follow OpenAI's release: its `h0`, `h1`, ... are
stacked on a leading axis under `h`, and every projection's array is called `w`. Where arrays live is not said here:
`AXES` names the dims and `igpt_jax.parallel` places them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from igpt_jax.config import InputError, ModelConfig
from igpt_jax.model.attention import Mask, attend, attend_cached
from igpt_jax.model.attention_kernels import KEPT
from igpt_jax.model.projection import Projection

# Parameter path (its end) -> what each dim is. One row for every parameter that some model has, used for sharding.
AXES: dict[str, tuple[str, ...]] = {
    "wpe": ("position", "embed"),
    "wte": ("vocab", "embed"),
    "sos": ("embed",),
    "class_table": ("class", "embed"),
    "wtet": ("vocab", "embed"),
    "clf": ("class", "embed"),
    "h/ln_1/g": ("layer", "norm"),
    "h/attn/q_proj/w": ("layer", "heads", "head", "embed"),
    "h/attn/k_proj/w": ("layer", "heads", "head", "embed"),
    "h/attn/v_proj/w": ("layer", "heads", "head", "embed"),
    "h/attn/c_proj/w": ("layer", "heads", "head", "embed"),
    "h/attn/q_proj/b": ("layer", "heads", "head"),
    "h/attn/k_proj/b": ("layer", "heads", "head"),
    "h/attn/v_proj/b": ("layer", "heads", "head"),
    "h/attn/c_proj/b": ("layer", "embed"),
    "h/ln_2/g": ("layer", "norm"),
    "h/mlp/c_fc/w": ("layer", "embed", "mlp"),
    "h/mlp/c_proj/w": ("layer", "mlp", "embed"),
    "h/mlp/c_fc/b": ("layer", "mlp"),
    "h/mlp/c_proj/b": ("layer", "embed"),
    "ln_f/g": ("norm",),
}

REMAT = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(KEPT),
    ),
    "full": None,
}
"""model.remat -> what is saved for the backward pass: products with weights and what splash yields; or nothing."""


class Cache(NamedTuple):
    """Keys and values of the positions decoded so far: an explicit pytree, argument and return value.

    Both are [N, B, H, S, K] in the compute dtype. Rows that are not filled yet hold zeros.
    """

    k: jax.Array
    v: jax.Array

    def grown(self, length: int) -> Cache:
        """The same cache with room for `length` positions."""
        pad = [(0, 0)] * 3 + [(0, length - self.k.shape[3]), (0, 0)]
        return Cache(jnp.pad(self.k, pad), jnp.pad(self.v, pad))


def init_cache(cfg: ModelConfig, batch: int, length: int) -> Cache:
    """An empty cache for `batch` images and `length` positions."""
    shape = (cfg.n_layer, batch, cfg.n_head, length, cfg.head_dim)
    return Cache(jnp.zeros(shape, compute_dtype(cfg)), jnp.zeros(shape, compute_dtype(cfg)))


def compute_dtype(cfg: ModelConfig) -> jnp.dtype:
    """float32 or bfloat16; 'auto' is float32 when this process's default device is a CPU."""
    if cfg.dtype == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(cfg.dtype)


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x^2) + 1e-5) * g in float32: no mean is subtracted, there is no bias (release, `norm`)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        g = self.param("g", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + 1e-5)
        return (x32 * scale * jnp.expand_dims(g, tuple(range(x.ndim - 1)))).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention (release, `attn`); with a cache, for one new position."""

    cfg: ModelConfig
    mask: Mask

    def setup(self) -> None:
        d, n = self.cfg.d_model, self.cfg.n_layer
        shape = (self.cfg.n_head, self.cfg.head_dim, d)
        bias, out_bias = (shape[:2], (d,)) if self.cfg.use_bias else (None, None)
        self.q_proj = Projection("...d,hkd->...hk", shape, d**-0.5, bias)
        self.k_proj = Projection("...d,hkd->...hk", shape, d**-0.5, bias)
        self.v_proj = Projection("...d,hkd->...hk", shape, d**-0.5, bias)
        self.c_proj = Projection("...hk,hkd->...d", shape, (d * n) ** -0.5, out_bias)

    def __call__(self, x_BTD: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns the update [B, T, D] and this layer's keys and values [B, T, H, K]."""
        q_BTHK, k_BTHK, v_BTHK = self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)
        out_BTHK = attend(q_BTHK, k_BTHK, v_BTHK, self.mask, self.cfg.attention)
        return self.c_proj(out_BTHK), (k_BTHK, v_BTHK)

    def step(self, x_BD: jax.Array, cache: Cache, layer: jax.Array, position: jax.Array) -> tuple[jax.Array, Cache]:
        """Returns the update [B, D] and the cache with row `position` of `layer` written."""
        q_BHK = self.q_proj(x_BD)
        at = (layer, 0, 0, position, 0)
        rows = [proj(x_BD)[None, :, :, None, :] for proj in (self.k_proj, self.v_proj)]
        cache = Cache(*(jax.lax.dynamic_update_slice(c, row, at) for c, row in zip(cache, rows, strict=True)))
        k_BHSK, v_BHSK = (jax.lax.dynamic_index_in_dim(c, layer, keepdims=False) for c in cache)
        return self.c_proj(attend_cached(q_BHK, k_BHSK, v_BHSK, position)), cache


class MLP(nn.Module):
    """D -> 4 D -> D around gelu2(x) = x sigmoid(1.702 x) (release, `mlp`)."""

    cfg: ModelConfig

    def setup(self) -> None:
        d = self.cfg.d_model
        bias, out_bias = ((4 * d,), (d,)) if self.cfg.use_bias else (None, None)
        self.c_fc = Projection("...d,df->...f", (d, 4 * d), 0.02, bias)
        self.c_proj = Projection("...f,fd->...d", (4 * d, d), 0.02, out_bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.c_fc(x)
        return self.c_proj(hidden * jax.nn.sigmoid(1.702 * hidden))


class Block(nn.Module):
    """Pre-norm residual block: h += attn(ln_1(h)); h += mlp(ln_2(h)) (paper section 2.2)."""

    cfg: ModelConfig
    mask: Mask

    def setup(self) -> None:
        self.ln_1, self.ln_2 = RMSNorm(), RMSNorm()
        self.attn = Attention(self.cfg, self.mask)
        self.mlp = MLP(self.cfg)

    def __call__(self, x_BTD: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, tuple[jax.Array, jax.Array]]]:
        """Returns the stream, and as per-layer outputs the pooled normed input [B, D] and the keys and values.

        Whoever compiles the caller pays only for the outputs that are used.
        """
        normed_BTD = self.ln_1(x_BTD)
        update_BTD, kv = self.attn(normed_BTD)
        x_BTD = x_BTD + update_BTD
        x_BTD = x_BTD + self.mlp(self.ln_2(x_BTD))
        return x_BTD, (normed_BTD.astype(jnp.float32).mean(axis=1), kv)

    def step(self, carry: tuple[jax.Array, Cache, jax.Array], layer: jax.Array) -> tuple[tuple, None]:
        """One new position through this layer; the cache travels in the carry, so it is updated in place."""
        x_BD, cache, position = carry
        update_BD, cache = self.attn.step(self.ln_1(x_BD), cache, layer, position)
        x_BD = x_BD + update_BD
        x_BD = x_BD + self.mlp(self.ln_2(x_BD))
        return (x_BD, cache, position), None


class ImageGPT(nn.Module):
    """Image GPT (paper section 2; release, `src/model.py`).

    `model.apply({'params': params}, tokens_BT)` gives the logits of every token, the first included: the start
    vector and the shift by one are inside. A fresh model predicts all V colours alike (loss = ln V), because the
    head starts at zero; so do the classification head and the class table, where the model has them.

    With `causal=False` it is the BERT variant: no start vector, no shift, every token sees every other, and the
    logits at t are those of token t itself, whose embedding `keep_BT` may blank.
    """

    cfg: ModelConfig

    def setup(self) -> None:
        cfg, normal, zeros = self.cfg, nn.initializers.normal, nn.initializers.zeros
        self.wpe = self.param("wpe", normal(0.01), (cfg.n_ctx, cfg.d_model), jnp.float32)
        self.wte = self.param("wte", normal(0.02), (cfg.vocab_size, cfg.d_model), jnp.float32)
        if cfg.causal:
            self.sos = self.param("sos", normal(0.02), (cfg.d_model,), jnp.float32)
        self.wtet = self.param("wtet", zeros, (cfg.vocab_size, cfg.d_model), jnp.float32)
        if cfg.clf_classes:
            self.clf = self.param("clf", zeros, (cfg.clf_classes, cfg.d_model), jnp.float32)
        if cfg.cond_classes:
            self.class_table = self.param("class_table", zeros, (cfg.cond_classes, cfg.d_model), jnp.float32)
        block = Block
        if cfg.remat != "none":
            block = nn.remat(Block, policy=REMAT[cfg.remat], prevent_cse=not cfg.scan_layers)
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=cfg.n_layer,
            unroll=1 if cfg.scan_layers else cfg.n_layer,
            methods=["__call__", "step"],
        )
        self.h = scanned(cfg, Mask.causal() if cfg.causal else Mask.full())
        self.ln_f = RMSNorm()

    def __call__(
        self, tokens_BT: jax.Array, keep_BT: jax.Array | None = None, class_B: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, T, V]; those of a causal model at t depend on tokens before t alone.

        Args:
          tokens_BT: int [B, T] palette ids in raster order, T = cfg.n_ctx.
          keep_BT: bool [B, T], for BERT: where False, the token's embedding is zero (its position's is not).
          class_B: int [B], for class-conditional models: 0..cond_classes - 1, or -1 for no class.

        Raises:
          InputError: T is not the model's context length, or an argument is for another kind of model.
        """
        return self._head(self._trunk(tokens_BT, keep_BT, class_B)[0])

    def logits_and_classes(self, tokens_BT: jax.Array, keep_BT: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Logits of tokens [B, T, V] and of classes [B, C], both float32, from one pass.

        The classes are read off the mean over positions of the final normed states (paper section 2.3).

        Raises:
          InputError: as for the plain call, or the model has no classification head.
        """
        if not self.cfg.clf_classes:
            raise InputError("model.clf_classes: this model has no classification head; give it the number of classes")
        x_BTD, _, _ = self._trunk(tokens_BT, keep_BT)
        pooled_BD = x_BTD.astype(jnp.float32).mean(axis=1)
        return self._head(x_BTD), jnp.einsum("bd,cd->bc", pooled_BD, self.clf)

    def features(self, tokens_BT: jax.Array, keep_BT: jax.Array | None = None) -> jax.Array:
        """float32 [N + 1, B, D]: mean over positions of each block's normed input, then of ln_f (paper section 2.4)."""
        x_BTD, pooled_NBD, _ = self._trunk(tokens_BT, keep_BT)
        return jnp.concatenate([pooled_NBD, x_BTD.astype(jnp.float32).mean(axis=1)[None]])

    def prefill(self, tokens_BP: jax.Array, class_B: jax.Array | None = None) -> Cache:
        """The cache, of length P, of positions 0..P-1: those fed the start vector and all given tokens but the last."""
        self._require_causal()
        _, _, (k_NBTHK, v_NBTHK) = self._trunk(tokens_BP, class_B=class_B, whole=False)
        return Cache(k_NBTHK.swapaxes(2, 3), v_NBTHK.swapaxes(2, 3))

    def step(
        self, previous_B: jax.Array, position: jax.Array, cache: Cache, class_B: jax.Array | None = None
    ) -> tuple[jax.Array, Cache]:
        """One position of autoregressive decoding.

        Args:
          previous_B: int [B], the tokens at position - 1; at position 0 they are not looked at.
          position: int scalar, the position to predict.
          cache: holds positions 0..position-1 and has room for one more.
          class_B: as in the plain call; looked at at position 0 alone.

        Returns:
          logits float32 [B, V] of `position`, and the cache with its row added.

        Raises:
          InputError: the model is not causal.
        """
        self._require_causal()
        start_BD = self._start(previous_B.shape[0], class_B)
        x_BD = jnp.where(position == 0, start_BD, self.wte[previous_B]) + self.wpe[position][None]
        x_BD = x_BD.astype(compute_dtype(self.cfg))
        (x_BD, cache, _), _ = self.h.step((x_BD, cache, position), jnp.arange(self.cfg.n_layer))
        return self._head(self.ln_f(x_BD)), cache

    def _require_causal(self) -> None:
        if not self.cfg.causal:
            raise InputError("model.causal: a BERT model sees all pixels at once and cannot decode one after another")

    def _start(self, batch: int, class_B: jax.Array | None) -> jax.Array:
        """What stands before the first token [B, D]: the start vector, and the class's vector where one is given."""
        start_BD = jnp.broadcast_to(self.sos, (batch, self.cfg.d_model))
        if class_B is None:
            return start_BD
        if not self.cfg.cond_classes:
            raise InputError("model.cond_classes: this model was not made for classes; leave the class out")
        return start_BD + jnp.where(class_B[:, None] >= 0, self.class_table[class_B], 0)

    def _trunk(
        self,
        tokens_BT: jax.Array,
        keep_BT: jax.Array | None = None,
        class_B: jax.Array | None = None,
        whole: bool = True,
    ) -> tuple[jax.Array, jax.Array, tuple]:
        """Normed final states [B, T, D], pooled block inputs [N, B, D], keys and values [N, B, T, H, K]."""
        t = tokens_BT.shape[-1]
        if tokens_BT.ndim != 2 or (t != self.cfg.n_ctx if whole else t > self.cfg.n_ctx):
            raise InputError(
                f"tokens of shape {tokens_BT.shape}: the model takes [batch, {self.cfg.n_ctx}] "
                f"for its grid {self.cfg.grid}; flatten the grid in raster order"
            )
        if self.cfg.causal:
            if keep_BT is not None:
                raise InputError("keep_BT: only a BERT model (model.causal False) takes blanked tokens")
            first_B1D = self._start(tokens_BT.shape[0], class_B)[:, None]
            x_BTD = jnp.concatenate([first_B1D, self.wte[tokens_BT[:, :-1]]], axis=1)
        else:
            if class_B is not None:
                raise InputError("class_B: a BERT model has no start vector to add a class to")
            x_BTD = self.wte[tokens_BT]
            if keep_BT is not None:
                x_BTD = x_BTD * keep_BT[..., None]
        x_BTD = (x_BTD + self.wpe[None, :t]).astype(compute_dtype(self.cfg))
        x_BTD, (pooled_NBD, kv) = self.h(x_BTD, None)
        return self.ln_f(x_BTD), pooled_NBD, kv

    def _head(self, x: jax.Array) -> jax.Array:
        return jnp.einsum("...d,vd->...v", x, self.wtet.astype(x.dtype), preferred_element_type=jnp.float32)
