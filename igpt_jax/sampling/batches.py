"""Any number of images in batches of one size, on the mesh that the parameters lie on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax import progress
from igpt_jax.config import SamplerConfig
from igpt_jax.model import ImageGPT
from igpt_jax.model.attention import platform
from igpt_jax.model.axes import Params
from igpt_jax.parallel.mesh import batch_ways, mesh_of, shard_batch, to_host, traced_on
from igpt_jax.sampling.decode import decode
from igpt_jax.sampling.draft import Draft
from igpt_jax.sampling.lookahead import decode_ahead, window_for
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import rules_of


def common_prefix_length(known_BT: np.ndarray) -> int:
    """How many slots are known from the start in every image, rounded down to an eighth of all.

    Rounding keeps the number of programs small; the known slots after it are decoded, and keep their tokens.
    """
    t = known_BT.shape[1]
    unknown_T = ~known_BT.all(axis=0)
    prefix = int(unknown_T.argmax()) if unknown_T.any() else t
    return max(t * i // 8 for i in range(9) if t * i // 8 <= prefix)


def decode_in_batches(
    model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig, draft: Draft | None = None
) -> np.ndarray:
    """Any number of images, drawn by `decode_ahead` or, where that is not faster, by `decode`: int32 [n, T]."""
    return in_batches(batch_decoder(model, params, prompt, sampler, draft), params, prompt, keys, sampler.batch_size)


def batch_decoder(
    model: ImageGPT, params: Params, prompt: Prompt, sampler: SamplerConfig, draft: Draft | None = None
) -> Callable[[Prompt, jax.Array], jax.Array]:
    """What draws each batch of the images of `prompt`: (batch, keys [B]) -> int32 [B, T]."""
    ordered = prompt.known if prompt.order is None else np.take_along_axis(prompt.known, prompt.order, axis=1)
    start, rules, mesh = common_prefix_length(ordered), rules_of(sampler), mesh_of(params)
    where, is_split = traced_on(mesh, platform)(), mesh is not None and batch_ways(mesh) > 1
    model = model.clone(cache=sampler.cache)

    def draw_batch(batch: Prompt, keys_B: jax.Array) -> jax.Array:
        if "guidance" in rules:
            batch, keys_B = in_pairs(batch, keys_B)
        if window := window_for(sampler.lookahead, where, len(keys_B), model.cfg.n_ctx):
            ahead = traced_on(mesh, decode_ahead)
            drawn = ahead(model, params, batch, keys_B, rules, start, window, draft, is_split)[0]
        else:
            drawn = traced_on(mesh, decode)(model, params, batch, keys_B, rules, start)
        return drawn[::2] if "guidance" in rules else drawn

    return draw_batch


def in_pairs(prompt: Prompt, keys_B: jax.Array) -> tuple[Prompt, jax.Array]:
    """Every image twice, one row after the other and with the same key: with its class, and without one.

    Guidance compares the two (Ho and Salimans, 2022, "Classifier-free diffusion guidance"), here for each pixel.
    """
    pairs = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), prompt._replace(prefix=None))
    is_second_B = jnp.arange(len(pairs.tokens)) % 2 == 1
    class_id = jnp.where(is_second_B, -1, pairs.class_id)
    return pairs._replace(class_id=class_id, prefix=prompt.prefix), jnp.repeat(keys_B, 2, axis=0)


def in_batches(
    draw_batch: Callable[[Prompt, jax.Array], Any], params: Params, prompt: Prompt, keys: jax.Array, batch_size: int
) -> Any:
    """Draws any number of images; the last batch is filled up, so that one program serves all.

    Batches are split over the mesh that the parameters lie on, over as many processes as it has.

    Args:
      draw_batch: (prompt, one key an image) -> arrays whose first dim is that of the images.

    Returns:
      The same arrays for all images, in numpy.
    """
    n, mesh = len(prompt.tokens), mesh_of(params)
    share = 1 if prompt.prefix is None else n // len(prompt.prefix)
    ways = share * (1 if mesh is None else batch_ways(mesh))  # images of one prefix stay together
    batch_size = -(-min(batch_size, n) // ways) * ways
    key_data = np.asarray(jax.random.key_data(keys))
    parts = []
    for first in range(0, n, batch_size):
        progress.report("drawing images", first, n)
        rows = np.arange(first, first + batch_size).clip(max=n - 1)
        chosen = jax.tree.map(lambda x, rows=rows: x[rows], (prompt._replace(prefix=None), key_data))
        prefix = None if prompt.prefix is None else prompt.prefix[rows[::share] // share]
        batch, data = jax.tree.map(lambda x: shard_batch(x, mesh), (chosen[0]._replace(prefix=prefix), chosen[1]))
        drawn = draw_batch(batch, jax.random.wrap_key_data(data))
        parts.append(jax.tree.map(lambda x, left=n - first: to_host(x)[:left], drawn))
    progress.report("drawing images", n, n)
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)
