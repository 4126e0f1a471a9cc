"""Draws one colour from logits by the rules of `igpt_jax.rules`, with each image's own key."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from igpt_jax.rules import RULES, RuleSettings

Rules = dict[str, jax.Array]
"""Name -> float32 setting of the rules that are on. Another value does not compile anew, another set of rules does."""


def rules_of(settings: RuleSettings) -> Rules:
    """The rules of a `SamplerConfig` that are on."""
    values = {name: getattr(settings, name) for name in RULES}
    return {name: jnp.float32(x) for name, x in values.items() if x is not None and x != RULES[name].off}


def filter_logits(logits: jax.Array, rules: Rules) -> jax.Array:
    """float32 [..., V]: what the rules make of logits, one after another; -inf for colours that they exclude."""
    logits = logits.astype(jnp.float32)
    for name, rule in RULES.items():
        if name in rules:
            logits = rule.apply(logits, rules[name])
    return logits


def noise(keys: jax.Array, size: int) -> jax.Array:
    """float32 [..., V]: what is added to logits before the highest is taken (Gumbel noise), from one key a row."""
    each = jax.vmap(lambda key: jax.random.gumbel(key, (size,), jnp.float32))
    return each(keys.reshape(-1)).reshape(*keys.shape, size)


def choose(logits: jax.Array, noise: jax.Array, rules: Rules) -> jax.Array:
    """int32 [...]: a colour drawn from each row of logits [..., V]."""
    return jnp.argmax(filter_logits(logits, rules) + noise, axis=-1).astype(jnp.int32)


def draw(logits_BV: jax.Array, keys_B: jax.Array, rules: Rules) -> jax.Array:
    """int32 [B]: one colour a row, each with its own key, so that no row depends on others."""
    return choose(logits_BV, noise(keys_B, logits_BV.shape[-1]), rules)
