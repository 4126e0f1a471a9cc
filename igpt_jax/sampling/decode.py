"""Autoregressive decoding: one jitted program of a prefill and a scan over slots with a growing cache."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igpt_jax.keys import fold_in
from igpt_jax.model import Cache, ImageGPT, compute_dtype, grow_cache, init_cache, is_projection
from igpt_jax.model.axes import AXES, Params
from igpt_jax.parallel.mesh import all_gather_fsdp, path_name
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules, draw
from igpt_jax.sequence import Inputs, ordered_inputs


def segment_ends(n_ctx: int) -> list[int]:
    """Where each cache segment ends, ascending, the last at n_ctx.

    A step reads the cache up to the end of its own segment. Each segment is compiled separately, so short sequences
    have fewer.
    """
    segments = min(8, -(-n_ctx // 64))
    return [-(-n_ctx * i // segments) for i in range(1, segments + 1)]


@functools.partial(jax.jit, static_argnames=("model", "start"))
def decode(
    model: ImageGPT,
    params: Params,
    prompt: Prompt,
    keys_B: jax.Array,
    rules: Rules,
    start: int = 0,
) -> jax.Array:
    """Draws the unknown tokens one after another, each from all tokens of earlier slots.

    Args:
      model, params: the decoder; params float32.
      prompt: the images' known part.
      keys_B: one PRNG key an image. Position t is drawn with fold_in(key, t), whatever the batch, order or segments.
      rules: how a colour is drawn.
      start: slots before this one are known in every image and are read at once. Each value compiles a program.

    Returns:
      int32 [B, T] in raster order.
    """
    tokens_BT, known_BT, order_BT, class_B, prefix_GPW, aligned_BTA = prompt
    tokens_BT = tokens_BT.astype(jnp.int32)
    n_ctx = tokens_BT.shape[1]
    if order_BT is None:
        order_BT = jnp.broadcast_to(jnp.arange(n_ctx)[None], tokens_BT.shape)
    order_BT = order_BT.astype(jnp.int32)  # whatever jax_enable_x64 says
    tokens_BT, known_BT = (jnp.take_along_axis(x, order_BT, axis=1) for x in (tokens_BT, known_BT))
    variables = {"params": decoding_weights(model, params)}

    def step(last: Decoded, xs: tuple[jax.Array, ...]) -> tuple[Decoded, jax.Array]:
        slot, target_B, known_token_B, known_B = xs
        logits_BV, cache = next_logits(model, variables, last, slot, target_B, class_B, aligned_BTA)
        drawn_B = draw(logits_BV, fold_in(keys_B, target_B), rules)
        token_B = jnp.where(known_B, known_token_B, drawn_B)
        return Decoded(token_B, target_B, cache), token_B

    last = prefill(model, variables, tokens_BT[:, :start], order_BT[:, :start], class_B, prefix_GPW, aligned_BTA)
    xs = (jnp.arange(n_ctx), order_BT.T, tokens_BT.T, known_BT.T)
    _, drawn_TB = scan_segments(step, last, xs, start, model.cfg.prefix_slots)
    slots_BT = jnp.concatenate([tokens_BT[:, :start], drawn_TB.T], axis=1)
    return jnp.take_along_axis(slots_BT, jnp.argsort(order_BT, axis=1), axis=1)


class Decoded(NamedTuple):
    """What decoding carries from slot to slot."""

    token: jax.Array
    """int32 [B]: the colour of the last slot, which the next slot is fed."""
    source: jax.Array
    """int32 [B]: its grid position."""
    cache: Cache


def prefill(
    model: ImageGPT,
    variables: Any,
    tokens_BT: jax.Array,
    order_BT: jax.Array,
    class_B: jax.Array | None,
    prefix_GPW: jax.Array | None = None,
    aligned_BTA: jax.Array | None = None,
) -> Decoded:
    """Reads the prefixes, and the first slots of all images at once; there may be none of either."""
    (n, start), p = tokens_BT.shape, model.cfg.prefix_slots
    cache: Any = grow_cache(prefix_cache(model, variables, prefix_GPW, n), p + start)
    if not start:
        return Decoded(jnp.zeros(n, jnp.int32), jnp.zeros(n, jnp.int32), cache)
    inputs = ordered_inputs(tokens_BT, order_BT, class_B)._replace(aligned=aligned_BTA)
    extended: Any = model.apply(variables, inputs, cache, p, method="extend")
    return Decoded(tokens_BT[:, -1], order_BT[:, -1], extended[1])


def next_logits(
    model: ImageGPT,
    variables: Any,
    last: Any,
    slot: jax.Array,
    target_B: jax.Array,
    class_B: jax.Array | None,
    aligned_BTA: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
    """Logits [B, V] of the next slot's target, and the cache with that slot. `last` has the fields of `Decoded`."""
    first = jnp.broadcast_to(slot == 0, (1, 1))
    slots = last.token[:, None], ~first, first, target_B[:, None], last.source[:, None]
    inputs = Inputs(*slots, class_id=class_B, aligned=aligned_BTA)
    extended: Any = model.apply(variables, inputs, last.cache, model.cfg.prefix_slots + slot, method="extend")
    return extended[0][:, 0], extended[1]


def scan_segments(
    step: Any, carry: Any, xs: tuple[jax.Array, ...], start: int, prefix_slots: int = 0
) -> tuple[Any, Any]:
    """`jax.lax.scan` over the slots from `start` on, with a cache that grows from segment to segment.

    Args:
      step: as for `jax.lax.scan`.
      carry: a named tuple with a `cache`.
      xs: for every slot, those before `start` included; slots on the leading axis.
      prefix_slots: rows of the cache before the first slot.
    """
    n_ctx, outputs = len(xs[0]), []
    for end in segment_ends(n_ctx):
        if end <= start:
            continue
        span = slice(start, end)
        carry = carry._replace(cache=grow_cache(carry.cache, prefix_slots + end))
        carry, output = jax.lax.scan(step, carry, jax.tree.map(lambda x, span=span: x[span], xs))
        outputs.append(output)
        start = end
    if not outputs:
        return carry, jnp.zeros((0, len(carry.token)), jnp.int32)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)


def prefix_cache(model: ImageGPT, variables: Any, prefix_GPW: jax.Array | None, n: int) -> Cache:
    """The cache of n images that holds their prefixes alone: computed once each, and repeated for images that share it.

    A prefix slot sees the prefix and nothing else, so its keys and values are the same for all of them.
    """
    if prefix_GPW is None:
        return init_cache(model.cfg, model.compute, n, 0, model.cache)
    g, p = prefix_GPW.shape[:2]
    no_slots = ordered_inputs(jnp.zeros((g, 0), jnp.int32), jnp.zeros((g, 0), jnp.int32))
    cache: Any = init_cache(model.cfg, model.compute, g, p, model.cache)
    _, cache = model.apply(variables, no_slots._replace(prefix=prefix_GPW), cache, 0, method="extend")
    return jax.tree.map(lambda x: jnp.repeat(x, n // g, axis=0), cache)


def decoding_weights(model: ImageGPT, params: Params) -> Params:
    """The weights for decoding: matrices in the compute type, whole on every device of fsdp, and layers apart.

    All this is done once and not in every step. Norms and embeddings stay float32.
    """
    dtype = compute_dtype(model.compute)

    def cast(path: Any, x: jax.Array) -> jax.Array:
        name = path_name(path)
        return x.astype(dtype) if is_projection(name) or name == "wtet" else x

    params = all_gather_fsdp(jax.tree.map_with_path(cast, params), AXES)
    layers = tuple(jax.tree.map(lambda x, i=i: x[i], params["h"]) for i in range(model.cfg.n_layer))
    return {**params, "h": layers}
