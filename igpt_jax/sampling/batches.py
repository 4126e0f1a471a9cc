"""Any number of images in batches of one size, on the mesh that the parameters lie on."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from igpt_jax import progress
from igpt_jax.config import SamplerConfig
from igpt_jax.model import ImageGPT
from igpt_jax.model.axes import Params
from igpt_jax.parallel.mesh import batch_ways, mesh_of, shard_batch, to_host, traced_on
from igpt_jax.parallel.processes import on_process_zero
from igpt_jax.sampling.decode import decode
from igpt_jax.sampling.guidance import in_pairs
from igpt_jax.sampling.lookahead import decode_ahead
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules

log = logging.getLogger(__name__)


AUTO_LOOKAHEAD = (0, 8, 32)
"""What `sampler.lookahead` auto chooses from."""


class FastestOf:
    """Runs each of some ways to do the same twice, the first time to compile it; then always the fastest.

    Processes of one program choose as process 0 does.
    """

    def __init__(self, ways: Sequence[int]) -> None:
        self.left = [way for way in ways for _ in range(2)]
        self.seconds: dict[int, float] = {}
        self.best: int | None = None

    def run(self, function: Callable[[int], jax.Array]) -> jax.Array:
        """`function` of one of the ways. While ways are being timed, it waits for the result."""
        if not self.left and self.best is None:
            self.best = on_process_zero(lambda: min(self.seconds, key=lambda way: self.seconds[way]))
            log.info("lookahead auto: seconds a batch %s; takes %s", self.seconds, self.best)
        if self.best is not None:
            return function(self.best)
        way = self.left.pop(0)
        begin = time.perf_counter()
        result = jax.block_until_ready(function(way))
        self.seconds[way] = time.perf_counter() - begin
        return result


@functools.lru_cache(maxsize=64)
def fastest_lookahead(model: ImageGPT, sampler: SamplerConfig, mesh: Mesh | None, batch: int, start: int) -> FastestOf:
    """What is known of the windows so far for such batches. It is kept between calls, as tiles and clips make many.

    The seed of `sampler` is to be that of all calls: it does not change the time.
    """
    del model, sampler, mesh, batch, start
    return FastestOf(AUTO_LOOKAHEAD)


def known_slots(known_BT: np.ndarray) -> int:
    """How many slots are known from the start in every image, rounded down to an eighth of all.

    Rounding keeps the number of programs small; the known slots after it are decoded, and keep their tokens.
    """
    t = known_BT.shape[1]
    unknown_T = ~known_BT.all(axis=0)
    prefix = int(unknown_T.argmax()) if unknown_T.any() else t
    return max(t * i // 8 for i in range(9) if t * i // 8 <= prefix)


def decode_in_batches(
    model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig
) -> np.ndarray:
    """Any number of images, drawn as `decode` or, with `sampler.lookahead`, `decode_ahead` says: int32 [n, T]."""
    ordered = prompt.known if prompt.order is None else np.take_along_axis(prompt.known, prompt.order, axis=1)
    start, rules, mesh = known_slots(ordered), Rules.of(sampler), mesh_of(params)
    model = model.clone(cache=sampler.cache)

    def run(window: int, batch: Prompt, batch_keys: jax.Array) -> jax.Array:
        if not window:
            return traced_on(mesh, decode)(model, params, batch, batch_keys, rules, start)
        return traced_on(mesh, decode_ahead)(model, params, batch, batch_keys, rules, start, window)[0]

    def draw_batch(batch: Prompt, batch_keys: jax.Array) -> jax.Array:
        asked = (batch, batch_keys) if rules.guidance is None else in_pairs(batch, batch_keys)
        if sampler.lookahead == "auto":
            fastest = fastest_lookahead(model, replace(sampler, seed=0), mesh, batch.tokens.shape[0], start)  # pyright: ignore[reportArgumentType]
            drawn = fastest.run(lambda window: run(window, *asked))
        else:
            drawn = run(sampler.lookahead, *asked)
        return drawn if rules.guidance is None else drawn[::2]

    return in_batches(draw_batch, params, prompt, keys, sampler.batch_size)


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
