"""cuDNN's fused attention on NVIDIA GPUs."""

from __future__ import annotations

from typing import Any

import jax

from igpt_jax.model.attention.base import Backend, Case, Mask, refuse_mask


def refusal(case: Case, device: Any = None) -> str | None:
    """Why cuDNN cannot serve, or None. The limits are those of `jax.nn.dot_product_attention`.

    `device` is the GPU if programs are compiled for one that is elsewhere; None asks this machine's.
    """
    if case.platform != "gpu" or (device is None and jax.default_backend() != "gpu"):
        return f"it needs an NVIDIA GPU, and this is {case.platform}"
    if device is None:
        device = jax.local_devices()[0]
        if "cuda" not in device.client.platform_version.lower():
            return "it needs an NVIDIA GPU, and this is another maker's"
    if case.dtype not in ("bfloat16", "float16"):
        return f"it computes in bfloat16 or float16, not {case.dtype} (compute.dtype)"
    capability = float(device.compute_capability)
    if capability < 8:
        return f"it needs compute capability 8.0, and this GPU has {capability}"
    largest = 256 if capability >= 9 else 128
    if case.head_dim % 8 or case.head_dim > largest:
        return f"head size {case.head_dim} is not a multiple of 8 up to {largest} (model.d_model / model.n_head)"
    return refuse_mask(case, ("causal", "full"))


def cudnn(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, mask: Mask) -> jax.Array:
    """GSPMD splits it over batch and heads without help."""
    causal = mask.kind == "causal"
    return jax.nn.dot_product_attention(q_BTHK, k_BSHK, v_BSHK, is_causal=causal, implementation="cudnn")


def saves_outputs(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy for `jax.checkpoint`: it saves the outputs of the kernel's forward pass."""
    return primitive.name.startswith("dot_product_attention_fwd")


BACKEND = Backend(cudnn, refusal, preferred=lambda case: case.platform == "gpu", saves=saves_outputs)
