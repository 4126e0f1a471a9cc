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
from igpt_jax.evaluation.standard_error import ratio_error
from igpt_jax.keys import stream
from igpt_jax.objectives import Mean, score
from igpt_jax.parallel.mesh import put_batch, replicated, traced_on


class Likelihood:
    """The objective's losses and metrics, averaged over the held-out images.

    What is drawn for image i is drawn from fold_in(stream, i), so neither the batch size nor the mesh matters.

    Attributes:
      nats: float64 [M], the mean nats per token of each held-out image, once `run` has ended; NaN for an image that
        no mask blanked a token of.
    """

    def __init__(self, context: EvalContext):
        self._context, objective = context, context.objective
        self.nats: np.ndarray | None = None
        key = stream(context.cfg.seed, "eval")

        def measure(
            params: Any, batch: Mapping[str, jax.Array], first: jax.Array, draw: jax.Array
        ) -> tuple[dict[str, Mean], Mean]:
            example = objective.example(batch, eval_keys(key, first, len(batch["image"]), draw))
            scores = score(context.model, params, example, objective.loss_name)
            return scores.means, scores.images

        self._measure = jax.jit(traced_on(context.mesh, measure), out_shardings=replicated(context.mesh))

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the means, bits beside nats, and the standard error over groups of images of the nats per token."""
        parts: list[tuple[dict[str, Mean], Mean]] = []
        first, n, draws = 0, len(self._context.held_out), self._context.objective.draws
        for host in self._context.batches():
            progress.report("measuring the likelihood", min(first, n), n)
            batch = put_batch(host, self._context.mesh)
            parts += [self._measure(params, batch, np.int32(first), np.int32(i)) for i in range(draws)]
            first += len(batch["image"])
        measured = jax.device_get(parts)
        progress.report("measuring the likelihood", n, n)
        for name in measured[0][0]:
            total, weight = (sum(float(means[name][i]) for means, _ in measured) for i in range(2))
            mean = total / (weight or 1.0)
            yield name, mean
            if name.startswith("nats_per_"):
                yield name.replace("nats", "bits"), mean / math.log(2)
        of_batches = [[images for _, images in measured[at : at + draws]] for at in range(0, len(measured), draws)]
        sums = [np.sum(images, axis=0, dtype=np.float64) for images in of_batches]  # [2, B] each
        totals, weights = np.concatenate(sums, axis=1)[:, :n]  # without padding
        with np.errstate(invalid="ignore"):
            self.nats = totals / weights
        error = ratio_error(totals, weights, self._context.groups)
        if not math.isnan(error):
            yield f"{self._context.objective.loss_name}_se", error
