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


def draw(logits_BV: jax.Array, keys_B: jax.Array, rules: Rules) -> jax.Array:
    """int32 [B]: one colour a row, each with its own key, so that no row depends on others."""
    return jax.vmap(jax.random.categorical)(keys_B, filter_logits(logits_BV, rules)).astype(jnp.int32)
