"""Products with weights, and the hooks where several devices share the work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from igpt_jax.model.attention import Attend


class Hooks(NamedTuple):
    """Optional sharding hooks; `igpt_jax.parallel.hooks` has them."""

    weight: Callable[[jax.Array, int], jax.Array] | None = None
    """(a projection's weight, its dim of width D) -> the same weight, with a gradient that is made in another way."""
    kernel: Callable[[Attend], Attend] | None = None
    """An attention kernel that XLA cannot split -> one that works on each device's part."""
    residual: Callable[[jax.Array], jax.Array] | None = None
    """The residual stream [B, T, D] between blocks -> the same, kept split over images."""


class Projection(nn.Module):
    """A weight `w` and perhaps a bias `b`, stored in float32 and used in the input's type.

    All tokens of a batch are the rows of one matrix: XLA's product of two matrices is far faster on CPUs than the same
    product with batch dims, and so is that of the gradient.
    """

    shape: tuple[int, ...]
    reads_last: bool
    """True: the last dim of `w` is contracted with the input's last dim. False: all others, with the input's last."""
    width_dim: int
    """The dim of `w` that is the model's width D."""
    stddev: float
    use_bias: bool = False
    hooks: Hooks = Hooks()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w: Any = self.param("w", nn.initializers.normal(self.stddev), self.shape, jnp.float32).astype(x.dtype)
        *first, last = self.shape
        if self.hooks.weight is not None:
            w = self.hooks.weight(w, self.width_dim)
        matrix = w.reshape(-1, last).T if self.reads_last else w.reshape(-1, last)
        outputs = tuple(first) if self.reads_last else (last,)
        batch = x.shape[: x.ndim - (1 if self.reads_last else len(first))]
        y = (x.reshape(math.prod(batch), -1) @ matrix).reshape(*batch, *outputs)
        if not self.use_bias:
            return y
        b = self.param("b", nn.initializers.zeros, outputs, jnp.float32).astype(x.dtype)
        return y + jnp.expand_dims(b, tuple(range(len(batch))))
