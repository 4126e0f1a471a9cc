"""Held-out likelihood, and the two baselines that put it in proportion.

All figures are of palette-quantised pixels: nats or bits per token (one token is one pixel), not per RGB channel, so
they compare only within one palette and resolution.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax.keys import fold_in
from igpt_jax.objectives import Mean, Objective, stream
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import put_batch, replicated, traced_on

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
            return objective(params, batch, eval_keys(self._key, first, len(batch["image"]), draw)).means

        self._means = jax.jit(traced_on(mesh, means), out_shardings=replicated(mesh))

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the metrics, and bits beside nats per token (both of quantised pixels)."""
        parts: list[dict[str, Mean]] = []
        first = 0
        for host in self._batches():
            batch = put_batch(host, self._mesh)
            parts += [self._means(params, batch, np.int32(first), np.int32(i)) for i in range(self._draws)]
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
    return fold_in(fold_in(key, first + jnp.arange(n)), draw)


def uniform_nats(vocab_size: int) -> float:
    """Nats per token of a model that knows nothing."""
    return math.log(vocab_size)


def histogram_nats(train: Batches, held_out: Batches, palette: Palette, mesh: Mesh) -> float:
    """Nats per token when every position has its own colour histogram, counted on `train` plus one of each colour.

    Both give this process's weighted batches.
    """

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def count(batch: Mapping[str, jax.Array]) -> jax.Array:
        tokens_BT = palette.encode(batch["image"]).reshape(len(batch["image"]), -1)
        counts_TV = jnp.zeros((tokens_BT.shape[1], palette.size), jnp.float32)
        weight_BT = jnp.broadcast_to(batch["weight"][:, None], tokens_BT.shape)
        return counts_TV.at[jnp.arange(tokens_BT.shape[1])[None], tokens_BT].add(weight_BT)

    def counts(batches: Batches) -> np.ndarray:
        return sum(np.asarray(count(put_batch(batch, mesh)), np.float64) for batch in batches())  # pyright: ignore

    seen_TV = counts(train) + 1
    nats_TV = -np.log(seen_TV / seen_TV.sum(axis=1, keepdims=True))
    found_TV = counts(held_out)
    return float((nats_TV * found_TV).sum() / found_TV.sum())
