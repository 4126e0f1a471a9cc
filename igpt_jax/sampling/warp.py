"""How logits become one colour: temperature, then top-k, then top-p, then a draw with that sample's own key."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from igpt_jax.config import SamplerConfig


def warp_logits(logits: jax.Array, cfg: SamplerConfig) -> jax.Array:
    """Logits [..., V] with temperature applied and the colours ruled out by top-k and top-p at -inf.

    A top_k of V or more and a top_p of 1 rule nothing out. Colours that tie with the last one kept all stay. The
    likeliest colour always stays. A temperature of 0 leaves the logits as they are (see `draw`).
    """
    logits = logits.astype(jnp.float32)
    if cfg.temperature > 0:  # the likeliest at 0, so that no temperature is too small
        logits = (logits - logits.max(axis=-1, keepdims=True)) / cfg.temperature
    if cfg.top_k is not None and cfg.top_k < logits.shape[-1]:
        smallest_kept = jax.lax.top_k(logits, cfg.top_k)[0][..., -1:]
        logits = jnp.where(logits < smallest_kept, -jnp.inf, logits)
    if cfg.top_p is not None and cfg.top_p < 1:
        descending = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        probs = jax.nn.softmax(descending, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs  # probability of all likelier colours
        kept = (before < cfg.top_p).at[..., 0].set(True)
        smallest_kept = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < smallest_kept, -jnp.inf, logits)
    return logits


def draw(logits_BV: jax.Array, keys_B: jax.Array, cfg: SamplerConfig) -> jax.Array:
    """int32 [B]: one colour a row, each with its own key, so that no row depends on its neighbours.

    A temperature of 0 takes the likeliest colour, the lowest id among equals.
    """
    if cfg.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys_B, warp_logits(logits_BV, cfg)).astype(jnp.int32)
