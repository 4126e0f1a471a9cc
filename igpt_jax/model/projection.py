"""The one kind of weight matrix that the decoder has, and how its gradient is made where devices share it."""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from igpt_jax.model.attention_kernels import platform


class Projection(nn.Module):
    """One weight `w`, contracted by an einsum, and perhaps a bias `b`; stored in float32, used in the input's dtype."""

    equation: str
    shape: tuple[int, ...]
    stddev: float
    bias_shape: tuple[int, ...] | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w: Any = self.param("w", nn.initializers.normal(self.stddev), self.shape, jnp.float32).astype(x.dtype)
        inputs, _, letters = self.equation.partition("->")[0].removeprefix("...").partition(",")
        dim = letters.index("d")
        if dim and platform() == "tpu" and jax.sharding.get_abstract_mesh().size > 1:
            w = cast(Any, width_first(w, dim))
        if len(inputs) == 1:
            y = jnp.einsum(self.equation, x, w)
        else:  # as one product of matrices, and so is the gradient of w
            y = x.reshape(*x.shape[: -len(inputs)], -1) @ w.reshape(-1, w.shape[-1])
        if self.bias_shape is None:
            return y
        b = self.param("b", nn.initializers.zeros, self.bias_shape, jnp.float32)
        return y + jnp.expand_dims(b.astype(x.dtype), tuple(range(y.ndim - b.ndim)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def width_first(w: jax.Array, dim: int) -> jax.Array:
    """The weight as it is; its gradient is made as a matrix whose rows are dim `dim`.

    Devices that share the weight along that dim then add up rows and each keeps its own. Of a bfloat16 gradient split
    along another dim the TPU compiler has every device add up all of it, in twice the traffic and beside no other work.
    """
    del dim
    return w


def _forward(w: jax.Array, dim: int) -> tuple[jax.Array, None]:
    return width_first(w, dim), None


def _backward(dim: int, _: None, d_w: jax.Array) -> tuple[jax.Array]:
    rows = jnp.moveaxis(d_w, dim, 0)
    # Without the barrier the compiler would undo the two transpositions before it splits the product.
    matrix = jax.lax.optimization_barrier(rows.reshape(rows.shape[0], -1))
    return (jnp.moveaxis(matrix.reshape(rows.shape), 0, dim),)


width_first.defvjp(_forward, _backward)
