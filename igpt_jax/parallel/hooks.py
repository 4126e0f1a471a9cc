"""Hints for the compiler where several devices share the work. The model takes these as `Hooks`.

All look at the mesh around the program while it is traced (`traced_on`) and change nothing on a single device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
from jax.sharding import PartitionSpec as P

from igpt_jax.config import BATCH_AXES
from igpt_jax.parallel.mesh import axes_around

Kernel = Callable[..., jax.Array]


def shard_kernel(kernel: Kernel) -> Kernel:
    """An attention kernel (q, k, v [B, T, H, K], mask) that works on each device's own images and heads.

    XLA cannot split a Pallas kernel by itself. Where an axis does not divide images or heads, the work is repeated.
    """

    def run(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, mask: Any) -> jax.Array:
        sizes = axes_around()
        if not sizes:
            return kernel(q_BTHK, k_BSHK, v_BSHK, mask)
        spec = P(_dividing(BATCH_AXES, sizes, q_BTHK.shape[0]), None, _dividing(("tensor",), sizes, q_BTHK.shape[2]))
        # check_vma is off because the kernel's outputs do not say over which axes they vary.
        split = jax.shard_map(
            lambda q, k, v: kernel(q, k, v, mask), in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
        )
        return split(q_BTHK, k_BSHK, v_BSHK)

    return run


def _dividing(axes: tuple[str, ...], sizes: Mapping[str, int], size: int) -> tuple[str, ...]:
    """The longest beginning of the axes that splits a dim of this size evenly."""
    axes = tuple(axis for axis in axes if axis in sizes)
    while size % math.prod(sizes[axis] for axis in axes):
        axes = axes[:-1]
    return axes


def split_over_images(x_BTD: jax.Array) -> jax.Array:
    """The residual stream, kept split over images.

    The embedding is looked up in a table that is split over width. Without this, XLA may keep the stream split like
    that through all blocks, and add up activations after every product instead of gathering the weights.
    """
    if not (sizes := axes_around()):
        return x_BTD
    return jax.lax.with_sharding_constraint(x_BTD, P(_dividing(BATCH_AXES, sizes, x_BTD.shape[0]), None, None))


def width_first_on_tpus(w: jax.Array, width_dim: int) -> jax.Array:
    """The weight, whose gradient is made width-first where several TPUs share it."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return cast(Any, width_first(w, width_dim)) if width_dim and platform == "tpu" and axes_around() else w


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def width_first(w: jax.Array, dim: int) -> jax.Array:
    """The weight; its gradient is made as a matrix whose rows are dim `dim`. compute.forward_mode does without.

    Devices that share the weight along that dim then add up rows, and each keeps its own. Where a bfloat16 gradient is
    split along another dim, the TPU compiler makes every device add up all of it: twice the traffic, not overlapped.
    """
    del dim
    return w


def _forward(w: jax.Array, dim: int) -> tuple[jax.Array, None]:
    return width_first(w, dim), None


def _backward(dim: int, _: None, d_w: jax.Array) -> tuple[jax.Array]:
    rows = jax.numpy.moveaxis(d_w, dim, 0)
    # Without the barrier the compiler undoes the two transpositions before it splits the product.
    matrix = jax.lax.optimization_barrier(rows.reshape(rows.shape[0], -1))
    return (jax.numpy.moveaxis(matrix.reshape(rows.shape), 0, dim),)


width_first.defvjp(_forward, _backward)
