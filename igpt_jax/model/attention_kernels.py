"""The attention kernels that vendors ship: cuDNN's on NVIDIA GPUs and the Pallas splash kernel on TPUs.

Each has a function that says why it cannot serve a case, and the call itself. Which one is taken, and the portable
implementations, are in `attention`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from igpt_jax.config import BATCH_AXES

HEAD_AXES = ("tensor",)
"""The mesh axes over which attention falls into independent parts, beside BATCH_AXES, where the mesh has them."""

KEPT = "attention"
"""What the splash kernel's outputs are called, for a rematerialisation policy that saves them."""


class Case(NamedTuple):
    """What an implementation is asked to serve."""

    platform: str
    """'cpu', 'gpu' or 'tpu'."""
    dtype: str
    t: int
    s: int
    head_dim: int


def platform() -> str:
    """Where the program being traced will run: the platform of the mesh around it, else of the default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def cudnn_refusal(case: Case) -> str | None:
    """Why cuDNN cannot serve, or None. The limits are those of `jax.nn.dot_product_attention`."""
    if case.platform != "gpu" or jax.default_backend() != "gpu":
        return f"it needs an NVIDIA GPU, and this is {case.platform}"
    device = jax.local_devices()[0]
    if "cuda" not in device.client.platform_version.lower():
        return "it needs an NVIDIA GPU, and this is another maker's"
    if case.dtype not in ("bfloat16", "float16"):
        return f"it computes in bfloat16 or float16, not {case.dtype} (model.dtype)"
    capability = float(device.compute_capability)
    if capability < 8:
        return f"it needs compute capability 8.0, and this GPU has {capability}"
    largest = 256 if capability >= 9 else 128
    if case.head_dim % 8 or case.head_dim > largest:
        return f"head size {case.head_dim} is not a multiple of 8 up to {largest} (model.d_model / model.n_head)"
    return None


def cudnn(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, causal: bool) -> jax.Array:
    """cuDNN's fused attention; GSPMD splits it over batch and heads by itself."""
    return jax.nn.dot_product_attention(q_BTHK, k_BSHK, v_BSHK, is_causal=causal, implementation="cudnn")


def splash_refusal(case: Case) -> str | None:
    """Why the splash kernel cannot serve, or None. Any head size will do: its rows are padded to 128 on the chip."""
    if case.platform != "tpu":
        return f"it needs a TPU, and this is {case.platform}"
    if case.dtype not in ("bfloat16", "float32"):
        return f"it computes in bfloat16 or float32, not {case.dtype}"
    if case.t % 128 or case.s % 128:
        return f"{case.t if case.t % 128 else case.s} positions are not a multiple of 128 (model.grid)"
    return None


def splash(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, causal: bool, interpret: bool = False) -> jax.Array:
    """The Pallas splash kernel, which visits no block that the mask empties.

    XLA cannot split a Pallas kernel, so under a mesh of several devices each works on its own images and heads.
    `interpret` runs the kernel's definition where there is no TPU; it is for tests.
    """

    def local(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array) -> jax.Array:
        return _splash_local(q_BTHK, k_BSHK, v_BSHK, causal, interpret)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1:
        spec = P(_dividing(BATCH_AXES, mesh, q_BTHK.shape[0]), None, _dividing(HEAD_AXES, mesh, q_BTHK.shape[2]))
        # Off: the kernel's outputs do not say over which axes they vary.
        local = jax.shard_map(local, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False)
    return local(q_BTHK, k_BSHK, v_BSHK)


def _dividing(axes: tuple[str, ...], mesh: jax.sharding.AbstractMesh, size: int) -> tuple[str, ...]:
    """The first of the axes that split a dim of this size evenly; over the others the work is repeated."""
    taken, ways = [], 1
    for axis in axes:
        ways *= mesh.shape.get(axis, 1)
        if size % ways:
            break
        if axis in mesh.shape:
            taken.append(axis)
    return tuple(taken)


def splash_products(s: int) -> int:
    """Products that the splash kernel makes in the backward pass over s keys, the two of the forward pass being two.

    Fused, it needs five in place of seven, and memory for one dq per block of keys.
    """
    return 5 if s // _block(s) <= 4 else 7


def _splash_local(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, causal: bool, interpret: bool) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as lib

    _, t, h, k = q_BTHK.shape
    s = k_BSHK.shape[1]
    mask = (lib.CausalMask if causal else lib.FullMask)((t, s))
    q_block, kv_block = _block(t), _block(s)
    fused = splash_products(s) == 5
    blocks = lib.BlockSizes(
        block_q=q_block,
        block_kv=kv_block,
        block_q_dkv=q_block,
        block_kv_dkv=kv_block,
        block_q_dq=None if fused else q_block,
        block_kv_dq=None if fused else kv_block,
        use_fused_bwd_kernel=fused,
    )
    kernel = lib.make_splash_mha(
        lib.MultiHeadMask([mask] * h),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=KEPT,
        interpret=interpret,
    )
    q_BHTK, k_BHSK, v_BHSK = (x.swapaxes(1, 2) for x in (q_BTHK * jnp.asarray(k**-0.5, q_BTHK.dtype), k_BSHK, v_BSHK))
    out_BHTK: Any = jax.vmap(kernel)(q_BHTK, k_BHSK, v_BHSK)
    return out_BHTK.swapaxes(1, 2)


def _block(size: int) -> int:
    """The largest block up to 512 that divides `size`, a multiple of 128."""
    return next(block for block in (512, 384, 256, 128) if size % block == 0)
