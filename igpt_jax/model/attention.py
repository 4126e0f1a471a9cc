"""Dot-product attention: one function, `attend`, over a small mask vocabulary and a table of implementations.

Projections, caches and shardings are left to the decoder and the sharding tables, the kernels that vendors ship to
`attention_kernels`. Every implementation computes the
same thing: softmax(q k^T / sqrt(K)) v with the softmax in float32.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from igpt_jax.config import InputError
from igpt_jax.model.attention_kernels import Case, cudnn, cudnn_refusal, platform, splash, splash_refusal

log = logging.getLogger(__name__)

_NEGATIVE = -1e10  # the release's value for a masked logit; finite, so that no row can become NaN


@dataclass(frozen=True)
class Mask:
    """Which keys a query sees, as a static value that each implementation turns into its own native form."""

    kind: Literal["causal", "full"]

    @classmethod
    def causal(cls) -> Mask:
        """Query t sees keys 0..t."""
        return cls("causal")

    @classmethod
    def full(cls) -> Mask:
        """Every query sees every key."""
        return cls("full")

    def visible(self, t: int, s: int) -> jax.Array:
        """bool [t, s], True where query t sees key s."""
        if self.kind == "full":
            return jnp.ones((t, s), bool)
        return jnp.arange(t)[:, None] >= jnp.arange(s)[None, :]


def _reference(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, mask: Mask) -> jax.Array:
    """The formula as written; T x S logits are held in memory."""
    scale = q_BTHK.shape[-1] ** -0.5
    logits_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK, preferred_element_type=jnp.float32) * scale
    if mask.kind != "full":
        visible_TS = mask.visible(q_BTHK.shape[1], k_BSHK.shape[1])
        logits_BHTS = jnp.where(visible_TS[None, None], logits_BHTS, _NEGATIVE)
    weights_BHTS = jax.nn.softmax(logits_BHTS, axis=-1).astype(v_BSHK.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights_BHTS, v_BSHK)


def _chunked(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, mask: Mask) -> jax.Array:
    """For CPUs: one head after the other, queries in chunks that touch no key beyond the last one they see.

    The logits of a chunk stay in cache and are computed again in the backward pass from their log-sum-exp.
    """
    b, t, h, k = q_BTHK.shape

    def heads_first(x: jax.Array) -> jax.Array:
        return x.swapaxes(1, 2).reshape(b * h, x.shape[1], k)

    # One head at a time: a plain 2-D product runs several times faster here than a batched one.
    def one_head(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return _head(*qkv, mask)

    out = jax.lax.map(one_head, (heads_first(q_BTHK), heads_first(k_BSHK), heads_first(v_BSHK)))
    return out.reshape(b, h, t, k).swapaxes(1, 2)


def _spans(t: int, s: int, mask: Mask) -> list[tuple[int, int, int]]:
    """(first query, end of queries, end of keys) of every chunk."""
    chunk = max(64, -(-t // 32))
    ends = [(start, min(start + chunk, t)) for start in range(0, t, chunk)]
    return [(start, end, min(end, s) if mask.kind == "causal" else s) for start, end in ends]


def _chunk_logits(q_CK: jax.Array, k_EK: jax.Array, start: int, mask: Mask) -> jax.Array:
    logits_CE = jnp.einsum("ck,ek->ce", q_CK, k_EK, preferred_element_type=jnp.float32) * q_CK.shape[-1] ** -0.5
    if mask.kind == "full":
        return logits_CE
    visible_CE = (start + jnp.arange(q_CK.shape[0]))[:, None] >= jnp.arange(k_EK.shape[0])[None, :]
    return jnp.where(visible_CE, logits_CE, _NEGATIVE)


def _head_forward(q_TK: jax.Array, k_SK: jax.Array, v_SK: jax.Array, mask: Mask) -> tuple[jax.Array, jax.Array]:
    """The head's output [T, K] in float32, and the log-sum-exp of each query's logits [T, 1]."""
    outs, lses = [], []
    for start, end, keys in _spans(len(q_TK), len(k_SK), mask):
        logits_CE = _chunk_logits(q_TK[start:end], k_SK[:keys], start, mask)
        top_C1 = logits_CE.max(axis=-1, keepdims=True)
        weights_CE = jnp.exp(logits_CE - top_C1)
        total_C1 = weights_CE.sum(axis=-1, keepdims=True)
        outs.append(weights_CE @ v_SK[:keys].astype(jnp.float32) / total_C1)
        lses.append(top_C1 + jnp.log(total_C1))
    return jnp.concatenate(outs), jnp.concatenate(lses)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _head(q_TK: jax.Array, k_SK: jax.Array, v_SK: jax.Array, mask: Mask) -> jax.Array:
    return _head_forward(q_TK, k_SK, v_SK, mask)[0].astype(v_SK.dtype)


def _head_fwd(q_TK: jax.Array, k_SK: jax.Array, v_SK: jax.Array, mask: Mask) -> tuple[jax.Array, tuple]:
    out_TK, lse_T1 = _head_forward(q_TK, k_SK, v_SK, mask)
    return out_TK.astype(v_SK.dtype), (q_TK, k_SK, v_SK, out_TK, lse_T1)


def _head_bwd(mask: Mask, kept: tuple, d_out_TK: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The usual backward pass of softmax attention, chunk by chunk, in float32."""
    dtypes = [x.dtype for x in kept[:3]]
    q_TK, k_SK, v_SK, out_TK, lse_T1 = (x.astype(jnp.float32) for x in kept)
    d_out_TK = d_out_TK.astype(jnp.float32)
    delta_T1 = jnp.sum(d_out_TK * out_TK, axis=-1, keepdims=True)
    d_q, d_k_SK, d_v_SK = [], jnp.zeros_like(k_SK), jnp.zeros_like(v_SK)
    for start, end, keys in _spans(len(q_TK), len(k_SK), mask):
        rows = slice(start, end)
        weights_CE = jnp.exp(_chunk_logits(q_TK[rows], k_SK[:keys], start, mask) - lse_T1[rows])
        d_weights_CE = d_out_TK[rows] @ v_SK[:keys].T
        d_logits_CE = weights_CE * (d_weights_CE - delta_T1[rows]) * q_TK.shape[-1] ** -0.5
        d_q.append(d_logits_CE @ k_SK[:keys])
        d_k_SK = d_k_SK.at[:keys].add(d_logits_CE.T @ q_TK[rows])
        d_v_SK = d_v_SK.at[:keys].add(weights_CE.T @ d_out_TK[rows])
    grads = (jnp.concatenate(d_q), d_k_SK, d_v_SK)
    return tuple(g.astype(dtype) for g, dtype in zip(grads, dtypes, strict=True))  # pyright: ignore[reportReturnType]


_head.defvjp(_head_fwd, _head_bwd)


Attend = Callable[[jax.Array, jax.Array, jax.Array, Mask], jax.Array]


def _anywhere(case: Case) -> str | None:
    del case


@dataclass(frozen=True)
class Backend:
    """One implementation: the call, and why it cannot serve a case (None where it can)."""

    attend: Attend
    refusal: Callable[[Case], str | None] = _anywhere


BACKENDS: dict[str, Backend] = {
    "reference": Backend(_reference),
    "chunked": Backend(_chunked),
    "cudnn": Backend(lambda q, k, v, mask: cudnn(q, k, v, mask.kind == "causal"), cudnn_refusal),
    "splash": Backend(lambda q, k, v, mask: splash(q, k, v, mask.kind == "causal"), splash_refusal),
}

_KERNELS = {"gpu": "cudnn", "tpu": "splash"}  # what auto tries first on a platform


@functools.cache
def pick_backend(name: str, case: Case) -> str:
    """Resolves 'auto' for a case, and says so in the log, once; another name is taken or refused.

    Raises:
      InputError: no implementation of that name, or it cannot serve the case.
    """
    if name == "auto":
        return _pick(case)
    if name not in BACKENDS:
        raise InputError(f"model.attention: no implementation {name!r}; there are auto, {', '.join(BACKENDS)}")
    refusal = BACKENDS[name].refusal(case)
    if refusal:
        raise InputError(f"model.attention: {name} cannot serve: {refusal}; auto takes one that can")
    return name


def _pick(case: Case) -> str:
    # Below some 256 positions a whole batch of logits is small and the loop over heads only costs.
    plain = "chunked" if case.platform == "cpu" and case.t > 256 else "reference"
    kernel = _KERNELS.get(case.platform)
    refusal = BACKENDS[kernel].refusal(case) if kernel else None
    name, why = (kernel, "") if kernel and not refusal else (plain, f"; not {kernel}: {refusal}" if refusal else "")
    where = f"{case.t} positions, head size {case.head_dim}, {case.dtype} on {case.platform}"
    log.info("attention: auto picked %s for %s%s", name, where, why)
    return name


def attend(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, mask: Mask, backend: str = "auto") -> jax.Array:
    """Multi-head attention.

    Args:
      q_BTHK: queries; k_BSHK, v_BSHK: keys and values, of the same dtype.
      mask: who sees whom.
      backend: 'auto' or a name in BACKENDS. auto takes the platform's own kernel where that can serve.

    Returns:
      [B, T, H, K] in the dtype of v.

    Raises:
      InputError: an unknown backend, or one asked for by name that cannot serve.
    """
    case = Case(platform(), q_BTHK.dtype.name, q_BTHK.shape[1], k_BSHK.shape[1], q_BTHK.shape[3])
    return BACKENDS[pick_backend(backend, case)].attend(q_BTHK, k_BSHK, v_BSHK, mask)


def attend_cached(q_BHK: jax.Array, k_BHSK: jax.Array, v_BHSK: jax.Array, position: jax.Array) -> jax.Array:
    """One query per image against a cache whose rows 0..position are filled.

    Heads stand before positions in the cache, so that each product streams through it without a transpose.

    Returns:
      [B, H, K] in the dtype of v.
    """
    scale = q_BHK.shape[-1] ** -0.5
    logits_BHS = jnp.einsum("bhk,bhsk->bhs", q_BHK, k_BHSK, preferred_element_type=jnp.float32) * scale
    filled_S = jnp.arange(k_BHSK.shape[2]) <= position
    logits_BHS = jnp.where(filled_S[None, None], logits_BHS, _NEGATIVE)
    weights_BHS = jax.nn.softmax(logits_BHS, axis=-1).astype(v_BHSK.dtype)
    return jnp.einsum("bhs,bhsk->bhk", weights_BHS, v_BHSK)
