"""Held-out likelihood, and the two baselines that put it in proportion.

All figures are of palette-quantised pixels: nats or bits per token (one token is one pixel), not per RGB channel, so
they compare only within one palette and resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax.objectives import Objective, stream
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import put_batch

Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]


class Likelihood:
    """The objective's metrics, averaged over a held-out set with every image counted once."""

    def __init__(self, objective: Objective, batches: Batches, mesh: Mesh, seed: int = 0):
        """`batches` gives this process's weighted batches from the start each time it is called."""
        self._batches, self._mesh, self._key = batches, mesh, stream(seed, "eval")

        def sums(params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
            weight = jnp.sum(batch["weight"])
            return {name: x * weight for name, x in objective(params, batch, key)[1].items()}, weight

        self._sums = jax.jit(sums)

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the metrics, and bits_per_token beside nats_per_token (both of quantised pixels)."""
        parts = []
        for i, batch in enumerate(self._batches()):
            parts.append(self._sums(params, put_batch(batch, self._mesh), jax.random.fold_in(self._key, i)))
        totals, weights = zip(*jax.device_get(parts), strict=True)
        for name in totals[0]:
            mean = float(sum(float(total[name]) for total in totals) / sum(map(float, weights)))
            yield name, mean
            if name == "nats_per_token":
                yield "bits_per_token", mean / math.log(2)


def uniform_nats(vocab_size: int) -> float:
    """Nats per token of a model that knows nothing."""
    return math.log(vocab_size)


def histogram_nats(train: Batches, held_out: Batches, palette: Palette) -> float:
    """Nats per token when every position has its own colour histogram, counted on `train` plus one of each colour."""
    encode = jax.jit(palette.encode)

    def tokens(batches: Batches) -> Iterator[np.ndarray]:
        for batch in batches():
            weight = batch.get("weight", np.ones(len(batch["image"])))
            yield np.asarray(encode(batch["image"])).reshape(len(weight), -1)[weight > 0]

    counts_TV: np.ndarray | None = None
    for tokens_BT in tokens(train):
        position_T = np.arange(tokens_BT.shape[1])
        if counts_TV is None:
            counts_TV = np.ones((len(position_T), palette.size))
        np.add.at(counts_TV, (np.broadcast_to(position_T, tokens_BT.shape), tokens_BT), 1)
    assert counts_TV is not None
    nats_TV = -np.log(counts_TV / counts_TV.sum(axis=1, keepdims=True))
    found = [nats_TV[np.arange(nats_TV.shape[0])[None], tokens_BT].ravel() for tokens_BT in tokens(held_out)]
    return float(np.concatenate(found).mean())
