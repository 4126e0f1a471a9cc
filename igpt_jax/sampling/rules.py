"""How logits become one colour: temperature, then top-k, then top-p, then a draw with that image's own key."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from igpt_jax.config import SamplerConfig
from igpt_jax.sampling.guidance import guided


@struct.dataclass
class Rules:
    """The settings as a pytree: another temperature or top-p does not compile anew, another top-k does."""

    temperature: Any
    top_p: Any
    """None for no limit."""
    guidance: Any
    """None for none; else the rows come in pairs (`guidance.in_pairs`)."""
    top_k: int | None = struct.field(pytree_node=False)

    @classmethod
    def of(cls, cfg: SamplerConfig) -> Rules:
        """The rules of a configuration."""
        top_p = None if cfg.top_p is None else jnp.float32(cfg.top_p)
        guidance = None if cfg.guidance == 1 else jnp.float32(cfg.guidance)
        return cls(jnp.float32(cfg.temperature), top_p, guidance, cfg.top_k)


def filter_logits(logits: jax.Array, rules: Rules) -> jax.Array:
    """Logits [..., V] divided by the temperature, with -inf for the colours that top-k and top-p exclude.

    A top_k of V or more and a top_p of 1 exclude nothing. Colours that tie with the last one kept all stay, and the
    most likely colour always stays. A temperature of 0 leaves the logits as they are (see `draw`).
    """
    logits = logits.astype(jnp.float32)
    # The maximum is 0 before the division, so no temperature is too small.
    logits = (logits - logits.max(axis=-1, keepdims=True)) / jnp.where(rules.temperature > 0, rules.temperature, 1.0)
    if rules.top_k is not None and rules.top_k < logits.shape[-1]:
        smallest_kept = kth_largest(logits, rules.top_k)[..., None]
        logits = jnp.where(logits < smallest_kept, -jnp.inf, logits)
    if rules.top_p is not None:
        descending = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        probs = jax.nn.softmax(descending, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs  # probability of all more likely colours
        stays = (before < rules.top_p).at[..., 0].set(True)
        smallest_kept = jnp.min(jnp.where(stays, descending, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where((logits < smallest_kept) & (rules.top_p < 1), -jnp.inf, logits)
    return logits


def kth_largest(x: jax.Array, k: int) -> jax.Array:
    """float32 [...]: the k-th largest value of each last dim, 1 <= k <= its size.

    By bisection: the order of floats is that of their bits, so 32 counts find them all. Six to eighteen times faster
    than a sort on CPUs.
    """
    sign = jnp.uint32(1 << 31)
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    ordered = jnp.where(bits & sign, ~bits, bits | sign)  # unsigned integers in the order of the floats

    def next_bit(i: jax.Array, lowest: jax.Array) -> jax.Array:
        higher = lowest | (sign >> i.astype(jnp.uint32))
        return jnp.where((ordered >= higher[..., None]).sum(axis=-1) >= k, higher, lowest)

    threshold = jax.lax.fori_loop(0, 32, next_bit, jnp.zeros(x.shape[:-1], jnp.uint32))
    return jax.lax.bitcast_convert_type(jnp.where(threshold & sign, threshold ^ sign, ~threshold), jnp.float32)


def draw(logits_BV: jax.Array, keys_B: jax.Array, rules: Rules) -> jax.Array:
    """int32 [B]: one colour a row, each with its own key, so that no row depends on others.

    A temperature of 0 takes the most likely colour, the lowest id among equals.
    """
    if rules.guidance is not None:
        logits_BV = guided(logits_BV, rules.guidance)
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, filter_logits(logits_BV, rules))
    return jnp.where(rules.temperature > 0, drawn_B, jnp.argmax(logits_BV, axis=-1)).astype(jnp.int32)
