"""Attention as the formula is written; all T x S logits are held in memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from igpt_jax.model.attention.base import KINDS, NEGATIVE, Backend, Mask, refuse_mask


def reference(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, mask: Mask) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v with the softmax in float32."""
    scale = q_BTHK.shape[-1] ** -0.5
    logits_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK, preferred_element_type=jnp.float32) * scale
    if mask.kind != "full":
        visible_TS = mask.visible(jnp.arange(q_BTHK.shape[1])[:, None], jnp.arange(k_BSHK.shape[1])[None])
        logits_BHTS = jnp.where(visible_TS[None, None], logits_BHTS, NEGATIVE)
    weights_BHTS = jax.nn.softmax(logits_BHTS, axis=-1).astype(v_BSHK.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights_BHTS, v_BSHK)


BACKEND = Backend(reference, lambda case: refuse_mask(case, KINDS), forward_mode=True)
