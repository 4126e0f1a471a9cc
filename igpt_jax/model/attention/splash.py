"""The Pallas splash kernel on TPUs: flash attention that skips the blocks that the mask empties."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from igpt_jax.model.attention.base import Backend, Case, Mask, refuse_mask

SAVED = "attention"
"""The name of the kernel's outputs."""


def refusal(case: Case) -> str | None:
    """Why the splash kernel cannot serve, or None. Any head size will do: the chip pads it to 128."""
    if case.platform != "tpu":
        return f"it needs a TPU, and this is {case.platform}"
    if case.dtype not in ("bfloat16", "float32"):
        return f"it computes in bfloat16 or float32, not {case.dtype}"
    if case.t % 128 or case.s % 128:
        return f"{case.t if case.t % 128 else case.s} positions are not a multiple of 128 (model.grid)"
    return refuse_mask(case, ("causal", "full"))


def splash_products(s: int) -> int:
    """How many matrix products the kernel needs for the backward pass over s keys; the forward pass needs two.

    The fused kernel needs five instead of seven, and memory for one dq per block of keys.
    """
    return 5 if s // _block(s) <= 4 else 7


def splash(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, mask: Mask, interpret: bool = False) -> jax.Array:
    """Attention of the images and heads of one device. `interpret` runs the kernel without a TPU, for tests."""
    from jax.experimental.pallas.ops.tpu import splash_attention as lib

    _, t, h, k = q_BTHK.shape
    s = k_BSHK.shape[1]
    native = (lib.CausalMask if mask.kind == "causal" else lib.FullMask)((t, s))
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
        lib.MultiHeadMask([native] * h),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=SAVED,
        interpret=interpret,
    )
    q_BHTK, k_BHSK, v_BHSK = (x.swapaxes(1, 2) for x in (q_BTHK * jnp.asarray(k**-0.5, q_BTHK.dtype), k_BSHK, v_BSHK))
    out_BHTK: Any = jax.vmap(kernel)(q_BHTK, k_BHSK, v_BHSK)
    return out_BHTK.swapaxes(1, 2)


def _block(size: int) -> int:
    """The largest block up to 512 that divides `size`, a multiple of 128."""
    return next(block for block in (512, 384, 256, 128) if size % block == 0)


BACKEND = Backend(
    splash,
    refusal,
    preferred=lambda case: case.platform == "tpu",
    whole_arrays=True,
    saves=jax.checkpoint_policies.save_only_these_names(SAVED),
    backward_products=splash_products,
)
