"""Which slot attends to which, and what an attention backend is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

NEGATIVE = -1e10  # the release's value for a masked logit; finite, so that no row can become NaN


@dataclass(frozen=True)
class Mask:
    """Query t sees keys 0..t (causal), every key (full), or keys 0..t and the first `prefix` keys (prefix)."""

    kind: Literal["causal", "full", "prefix"]
    prefix: int = 0

    def visible(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """bool: True where the query at a place sees the key at a place; `queries` and `keys` are broadcast."""
        if self.kind not in KINDS:
            raise ValueError(f"unknown mask {self.kind!r}")
        seen = keys <= queries
        if self.kind == "full":
            return jnp.ones_like(seen)
        return seen | (keys < self.prefix) if self.kind == "prefix" else seen

    def last_key(self, last_query: int, keys: int) -> int:
        """How many keys, from the first on, a query up to `last_query` can see at most."""
        return keys if self.kind == "full" else min(max(last_query + 1, self.prefix), keys)


KINDS = ("causal", "full", "prefix")


class Case(NamedTuple):
    """What a backend is asked to serve: platform ('cpu', 'gpu' or 'tpu'), t queries, s keys."""

    platform: str
    dtype: str
    t: int
    s: int
    head_dim: int
    mask: Mask
    forward_mode: bool = False


Attend = Callable[[jax.Array, jax.Array, jax.Array, Mask], jax.Array]
"""(queries [B, T, H, K], keys [B, S, H, K], values [B, S, H, K], mask) -> [B, T, H, K] in the dtype of the values."""


@dataclass(frozen=True)
class Backend:
    """One implementation of attention."""

    attend: Attend
    refusal: Callable[[Case], str | None]
    """Why it cannot serve a case, as a clause for an error message; None if it can."""
    preferred: Callable[[Case], bool] = lambda case: False
    """Whether compute.attention = auto tries it, before reference."""
    whole_arrays: bool = False
    """True for a kernel that XLA cannot split over devices; see the `shard_kernel` argument of `attend`."""
    forward_mode: bool = False
    """Whether `jax.jvp` can differentiate it; it cannot if the backward pass is a custom_vjp."""
    saves: Callable[..., bool] | None = None
    """A policy for `jax.checkpoint` that saves its outputs (compute.remat = dots); None if it is computed again."""
    backward_products: Callable[[int], int] = lambda keys: 5
    """Number of keys -> matrix products of its backward pass: four, and the logits once more."""


def refuse_mask(case: Case, known: tuple[str, ...]) -> str | None:
    """The refusal of a backend that only knows these kinds of masks."""
    return None if case.mask.kind in known else f"it has no {case.mask.kind!r} mask, only {' and '.join(known)}"
