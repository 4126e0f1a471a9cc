"""Held-out likelihood: the objective's own means, with every held-out image counted alike.

All figures are of palette-quantised pixels: nats or bits per token (one token is one pixel), not per RGB channel, so
they compare only within one palette and resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from igpt_jax import progress
from igpt_jax.evaluation.base import EvalContext, eval_keys
from igpt_jax.keys import stream
from igpt_jax.objectives import Mean, score
from igpt_jax.parallel.mesh import put_batch, replicated, traced_on


class Likelihood:
    """The objective's losses and metrics, averaged over the held-out images.

    What is drawn for image i is drawn from fold_in(stream, i), so neither the batch size nor the mesh matters.
    """

    def __init__(self, context: EvalContext):
        self._context, objective = context, context.objective
        key = stream(context.cfg.seed, "eval")

        def means(params: Any, batch: Mapping[str, jax.Array], first: jax.Array, draw: jax.Array) -> dict[str, Mean]:
            example = objective.example(batch, eval_keys(key, first, len(batch["image"]), draw))
            return score(context.model, params, example, objective.loss_name).means

        self._means = jax.jit(traced_on(context.mesh, means), out_shardings=replicated(context.mesh))

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the means, and bits beside nats."""
        parts: list[dict[str, Mean]] = []
        first, n = 0, len(self._context.held_out)
        for host in self._context.batches():
            progress.report("measuring the likelihood", min(first, n), n)
            batch = put_batch(host, self._context.mesh)
            draws = range(self._context.objective.draws)
            parts += [self._means(params, batch, np.int32(first), np.int32(i)) for i in draws]
            first += len(batch["image"])
        sums = jax.device_get(parts)
        progress.report("measuring the likelihood", n, n)
        for name in sums[0]:
            total, weight = (sum(float(part[name][i]) for part in sums) for i in range(2))
            mean = total / (weight or 1.0)
            yield name, mean
            if name.startswith("nats_per_"):
                yield name.replace("nats", "bits"), mean / math.log(2)
