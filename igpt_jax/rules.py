"""The rules by which logits become a colour. Each is one field below, with its bounds, its default and its function.

A rule of your own is one field more: it is then a setting of `SamplerConfig`, an option of the commands, and drawn by.
JAX is imported inside the functions, because the command line reads this table before JAX has started.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Interval

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Rule:
    """What a setting does to logits."""

    apply: Callable[[jax.Array, jax.Array], jax.Array]
    """(float32 logits [..., V], the setting) -> logits; -inf for a colour that is excluded."""
    off: Any = None
    """The setting that changes nothing."""


def guided(logits_BV: jax.Array, guidance: jax.Array) -> jax.Array:
    """Logits of pairs (`sampling.batches.in_pairs`) -> the same guided logits in both rows, so they draw one colour."""
    import jax.numpy as jnp

    pairs = logits_BV.reshape(-1, 2, logits_BV.shape[-1])
    with_class, without = pairs[:, 0], pairs[:, 1]
    return jnp.repeat(without + guidance * (with_class - without), 2, axis=0)


def tempered(logits: jax.Array, temperature: jax.Array) -> jax.Array:
    """Divided by the temperature; at 0 the most likely colour alone, the lowest id among equals."""
    import jax.numpy as jnp

    # The maximum is 0 before the division, so no temperature is too small.
    divided = (logits - logits.max(axis=-1, keepdims=True)) / jnp.where(temperature > 0, temperature, 1)
    likeliest = jnp.argmax(logits, axis=-1, keepdims=True) == jnp.arange(logits.shape[-1])
    return jnp.where((temperature > 0) | likeliest, divided, -jnp.inf)


def k_most_likely(logits: jax.Array, k: jax.Array) -> jax.Array:
    """Colours that tie with the k-th stay."""
    import jax.numpy as jnp

    return jnp.where(logits < kth_largest(logits, jnp.minimum(k, logits.shape[-1]))[..., None], -jnp.inf, logits)


def nucleus(logits: jax.Array, p: jax.Array) -> jax.Array:
    """Colours that tie with the last one kept stay, and so does the most likely one. A p of 1 excludes nothing."""
    import jax
    import jax.numpy as jnp

    descending = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    probs = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs  # probability of all more likely colours
    stays = (before < p).at[..., 0].set(True)
    smallest_kept = jnp.min(jnp.where(stays, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where((logits < smallest_kept) & (p < 1), -jnp.inf, logits)


def near_most_likely(logits: jax.Array, p: jax.Array) -> jax.Array:
    """Colours of at least p times the probability of the most likely one."""
    import jax.numpy as jnp

    return jnp.where(logits < logits.max(axis=-1, keepdims=True) + jnp.log(p), -jnp.inf, logits)


def kth_largest(x: jax.Array, k: jax.Array | int) -> jax.Array:
    """float32 [...]: the k-th largest value of each last dim, 1 <= k <= its size.

    By bisection: the order of floats is that of their bits, so 32 counts find them all. Six to eighteen times faster
    than a sort on CPUs.
    """
    import jax
    import jax.numpy as jnp

    sign = jnp.uint32(1 << 31)
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    ordered = jnp.where(bits & sign, ~bits, bits | sign)  # unsigned integers in the order of the floats

    def next_bit(i: jax.Array, lowest: jax.Array) -> jax.Array:
        higher = lowest | (sign >> i.astype(jnp.uint32))
        return jnp.where((ordered >= higher[..., None]).sum(axis=-1) >= k, higher, lowest)

    threshold = jax.lax.fori_loop(0, 32, next_bit, jnp.zeros(x.shape[:-1], jnp.uint32))
    return jax.lax.bitcast_convert_type(jnp.where(threshold & sign, threshold ^ sign, ~threshold), jnp.float32)


@dataclass(frozen=True)
class RuleSettings:
    """The table of rules. They are applied in this order."""

    guidance: Annotated[float, Interval(ge=0, lt=math.inf), Rule(guided, off=1.0)] = 1.0
    """Classifier-free guidance of a class-conditional model: above 1 for more typical images of the class, at twice the
    cost; 1 for the model's own, 0 for the model without a class. For new images and completions."""
    temperature: Annotated[float, Interval(ge=0, lt=math.inf), Rule(tempered)] = 1.0
    """Divides the logits; 0 takes the most likely colour."""
    top_k: Annotated[int | None, Ge(1), Rule(k_most_likely)] = None
    """Keep the k most likely colours."""
    top_p: Annotated[float | None, Interval(gt=0, le=1), Rule(nucleus)] = None
    """Keep the smallest set of most likely colours whose probability reaches p."""
    min_p: Annotated[float | None, Interval(gt=0, le=1), Rule(near_most_likely)] = None
    """Keep the colours that have at least p times the probability of the most likely one."""


RULES: dict[str, Rule] = {
    name: next(x for x in hint.__metadata__ if isinstance(x, Rule))
    for name, hint in typing.get_type_hints(RuleSettings, include_extras=True).items()
}
