"""Attention for CPUs: small products that stay in the processor's cache."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from igpt_jax.model.attention.base import KINDS, NEGATIVE, Backend, Mask, refuse_mask


def chunked(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, mask: Mask) -> jax.Array:
    """One head after the other, queries in chunks, each chunk only with the keys it can see.

    The logits of a chunk stay in the processor's cache. The backward pass computes them again from their log-sum-exp.
    """
    b, t, h, k = q_BTHK.shape

    def heads_first(x: jax.Array) -> jax.Array:
        return x.swapaxes(1, 2).reshape(b * h, x.shape[1], k)

    # One head at a time: a plain 2-D product runs several times faster here than a batched one.
    out = jax.lax.map(lambda qkv: _head(*qkv, mask), tuple(map(heads_first, (q_BTHK, k_BSHK, v_BSHK))))
    return out.reshape(b, h, t, k).swapaxes(1, 2)


def _spans(t: int, s: int, mask: Mask) -> list[tuple[int, int, int]]:
    """(first query, end of queries, end of keys) of every chunk."""
    # Longer chunks have faster products, but compute more logits that are masked. More than 32 compile slowly.
    chunk = max(64, min(128, t // 8), -(-t // 32))
    ends = [(start, min(start + chunk, t)) for start in range(0, t, chunk)]
    return [(start, end, mask.last_key(end - 1, s)) for start, end in ends]


def _chunk_logits(q_CK: jax.Array, k_EK: jax.Array, start: int, mask: Mask) -> jax.Array:
    logits_CE = jnp.einsum("ck,ek->ce", q_CK, k_EK, preferred_element_type=jnp.float32) * q_CK.shape[-1] ** -0.5
    if mask.kind == "full":
        return logits_CE
    queries, keys = start + jnp.arange(q_CK.shape[0]), jnp.arange(k_EK.shape[0])
    return jnp.where(mask.visible(queries[:, None], keys[None]), logits_CE, NEGATIVE)


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


def _head_bwd(mask: Mask, saved: tuple, d_out_TK: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The usual backward pass of softmax attention, chunk by chunk, in float32."""
    dtypes = [x.dtype for x in saved[:3]]
    q_TK, k_SK, v_SK, out_TK, lse_T1 = (x.astype(jnp.float32) for x in saved)
    d_out_TK = d_out_TK.astype(jnp.float32)
    delta_T1 = jnp.sum(d_out_TK * out_TK, axis=-1, keepdims=True)
    d_q, d_k_KS, d_v_KS = [], jnp.zeros_like(k_SK.T), jnp.zeros_like(v_SK.T)
    for start, end, keys in _spans(len(q_TK), len(k_SK), mask):
        rows = slice(start, end)
        weights_CE = jnp.exp(_chunk_logits(q_TK[rows], k_SK[:keys], start, mask) - lse_T1[rows])
        d_weights_CE = d_out_TK[rows] @ v_SK[:keys].T
        d_logits_CE = weights_CE * (d_weights_CE - delta_T1[rows]) * q_TK.shape[-1] ** -0.5
        d_q.append(d_logits_CE @ k_SK[:keys])
        d_k_KS = d_k_KS.at[:, :keys].add(q_TK[rows].T @ d_logits_CE)  # turning the small factor is faster
        d_v_KS = d_v_KS.at[:, :keys].add(d_out_TK[rows].T @ weights_CE)
    grads = (jnp.concatenate(d_q), d_k_KS.T, d_v_KS.T)
    return tuple(g.astype(dtype) for g, dtype in zip(grads, dtypes, strict=True))  # pyright: ignore[reportReturnType]


_head.defvjp(_head_fwd, _head_bwd)


BACKEND = Backend(
    chunked,
    lambda case: refuse_mask(case, KINDS),
    # Below some 100 positions a whole batch of logits is small, and the loop over heads only costs. Measured: steps of
    # 32 images, 4 layers of width 128, two cores: 64 positions 0.92x, 121 1.08x, 196 1.10x, 256 1.38x as fast.
    preferred=lambda case: case.platform == "cpu" and case.t > 100,
    whole_arrays=True,  # its loop runs over images
)
