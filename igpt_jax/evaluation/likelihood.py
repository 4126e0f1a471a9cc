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

from igpt_jax.objectives import Mean, Objective, image_keys, stream
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import put_batch

Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]


MASKS = 5
"""Masks drawn for every image where a model is evaluated on masked images (paper section 4.6)."""


class Likelihood:
    """The objective's metrics, averaged over a held-out set with every image counted alike.

    What is drawn for image i is drawn from fold_in(stream, i), so neither the batch size nor the mesh matters.
    """

    def __init__(self, objective: Objective, batches: Batches, mesh: Mesh, seed: int = 0, draws: int = 1):
        """`batches` gives this process's weighted batches from the start each time it is called.

        `draws` is how often the objective is evaluated on every image, each time with another key: MASKS for one that
        draws masks, else 1.
        """
        self._batches, self._mesh, self._key, self._draws = batches, mesh, stream(seed, "eval"), draws

        def means(params: Any, batch: Mapping[str, jax.Array], first: jax.Array, draw: jax.Array) -> dict[str, Mean]:
            return objective(params, batch, eval_keys(self._key, first, len(batch["image"]), draw))[1]

        self._means = jax.jit(means)

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the metrics, and bits beside nats per token (both of quantised pixels)."""
        parts: list[dict[str, Mean]] = []
        first = 0
        for host in self._batches():
            batch = put_batch(host, self._mesh)
            parts += [self._means(params, batch, jnp.int32(first), jnp.int32(i)) for i in range(self._draws)]
            first += len(batch["image"])
        found = jax.device_get(parts)
        for name in found[0]:
            total, weight = (sum(float(part[name][i]) for part in found) for i in range(2))
            mean = total / max(weight, 1.0)
            yield name, mean
            if name.startswith("nats_per_"):
                yield name.replace("nats", "bits"), mean / math.log(2)


def eval_keys(key: jax.Array, first: jax.Array, n: int, draw: jax.Array) -> jax.Array:
    """The keys of held-out images first .. first + n - 1 in their draw number `draw`."""
    return jax.vmap(jax.random.fold_in, (0, None))(image_keys(key, first + jnp.arange(n)), draw)


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
