"""Dot-product attention: one function, `attend`, over a table of backends that all compute the same.

A custom backend is one more row: `BACKENDS["mine"] = Backend(attend, refusal)`, then compute.attention = "mine".
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp

from igpt_jax.errors import InputError
from igpt_jax.model.attention import chunked, cudnn, reference, splash
from igpt_jax.model.attention.base import NEGATIVE, Attend, Backend, Case, Mask
from igpt_jax.model.cache import LayerCache

__all__ = ["BACKENDS", "Attend", "Backend", "Case", "Mask", "attend", "attend_cached", "pick_backend", "platform"]

log = logging.getLogger(__name__)

BACKENDS: dict[str, Backend] = {
    "reference": reference.BACKEND,
    "chunked": chunked.BACKEND,
    "cudnn": cudnn.BACKEND,
    "splash": splash.BACKEND,
}


def platform() -> str:
    """Where the program being traced will run: the platform of the mesh around it, else of the default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def pick_backend(name: str, case: Case) -> str:
    """The backend for a case; 'auto' is resolved. InputError if there is none of that name, or it cannot serve."""
    if name == "auto":
        return _pick(case)
    if name not in BACKENDS:
        raise InputError(f"compute.attention: must be one of auto, {', '.join(BACKENDS)}; got {name!r}")
    if refusal := _refusal(name, case):
        raise InputError(f"compute.attention: {name} cannot serve: {refusal}; auto takes one that can")
    return name


def _refusal(name: str, case: Case) -> str | None:
    if case.forward_mode and not BACKENDS[name].forward_mode:
        return "it has no forward-mode derivative (compute.forward_mode)"
    return BACKENDS[name].refusal(case)


@functools.cache
def _pick(case: Case) -> str:
    refusals = {name: _refusal(name, case) for name, backend in BACKENDS.items() if backend.preferred(case)}
    name = next((name for name, refusal in refusals.items() if not refusal), "reference")
    why = "".join(f"; not {other}: {refusal}" for other, refusal in refusals.items() if refusal)
    where = f"{case.t} positions, head size {case.head_dim}, {case.dtype} on {case.platform}"
    log.info("attention: auto picked %s for %s%s", name, where, why)  # once for each case
    return name


def attend(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    mask: Mask,
    backend: str = "auto",
    shard_kernel: Callable[[Attend], Attend] | None = None,
    forward_mode: bool = False,
) -> jax.Array:
    """Multi-head attention over a whole sequence: softmax(q k^T / sqrt(K)) v, the softmax in float32.

    `backend` is 'auto' or a name in `BACKENDS`. `shard_kernel` makes a kernel that XLA cannot split work on each
    device's own part. The result is [B, T, H, K] in the dtype of v.
    """
    case = Case(platform(), q_BTHK.dtype.name, q_BTHK.shape[1], k_BSHK.shape[1], q_BTHK.shape[3], mask, forward_mode)
    chosen = BACKENDS[pick_backend(backend, case)]
    run = shard_kernel(chosen.attend) if chosen.whole_arrays and shard_kernel else chosen.attend
    return run(q_BTHK, k_BSHK, v_BSHK, mask)


def attend_cached(q_BTHK: jax.Array, cache: LayerCache, at: jax.Array | int, mask: Mask) -> jax.Array:
    """Attention of the T slots at rows at .. at + T - 1 to a cache that holds these rows and all before them.

    Rows after them are ignored. `at` is a scalar, or [B] where images are at different rows. Heads stand before rows in
    the cache, so that each product reads it without a transpose. The result is [B, T, H, K] in the queries' dtype.
    """
    k_BHSK, v_BHSK = cache.k.astype(q_BTHK.dtype), cache.v.astype(q_BTHK.dtype)
    logits_BHTS = jnp.einsum("bthk,bhsk->bhts", q_BTHK, k_BHSK, preferred_element_type=jnp.float32)
    logits_BHTS = logits_BHTS * q_BTHK.shape[-1] ** -0.5
    if cache.k_scale is not None:  # a slot's scale leaves the sum over K, so that int8 is what is read
        logits_BHTS = logits_BHTS * cache.k_scale.swapaxes(2, 3)
    queries_BT = jnp.reshape(jnp.asarray(at), (-1, 1)) + jnp.arange(q_BTHK.shape[1])[None]
    visible_BTS = mask.visible(queries_BT[:, :, None], jnp.arange(k_BHSK.shape[2])[None, None])
    weights_BHTS = jax.nn.softmax(logits_BHTS + jnp.where(visible_BTS, 0, NEGATIVE)[:, None], axis=-1)
    if cache.v_scale is not None:
        weights_BHTS = weights_BHTS * cache.v_scale.swapaxes(2, 3)
    return jnp.einsum("bhts,bhsk->bhtk", weights_BHTS.astype(v_BHSK.dtype), v_BHSK).swapaxes(1, 2)
