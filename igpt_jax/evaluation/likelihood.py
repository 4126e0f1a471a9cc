"""Held-out likelihood: the objective's own losses and metrics, with every held-out image counted alike.

All figures are of palette-quantised pixels: nats or bits per token (one token is one pixel), not per RGB channel, so
they compare only within one palette and resolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from igpt_jax.evaluation.base import EvalContext, Evaluator


def make_likelihood(context: EvalContext) -> Evaluator:
    """Masks are drawn as the objective does, `objective.draws` of each image."""
    model, objective = context.model, context.objective

    def measure(params: Any, batch: Mapping[str, jax.Array], keys_B: jax.Array) -> dict[str, Any]:
        scores = objective.score(model, params, objective.example(batch, keys_B), objective.loss_name)
        return {name: (mean.value, mean.weight) for name, mean in scores.each.items()}

    return Evaluator(measure, objective.figures, objective.draws)
