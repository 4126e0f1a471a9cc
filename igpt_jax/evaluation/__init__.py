"""Evaluation: one table of evaluators and one of pictures, and the figures that a run reports.

An evaluator of your own is one row more: `EVALUATORS["mine"] = make_mine`, named by an objective's `evaluators`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from igpt_jax.evaluation.accuracy import Accuracy
from igpt_jax.evaluation.base import EvalContext, MakeEvaluator
from igpt_jax.evaluation.baselines import baselines
from igpt_jax.evaluation.holes import Holes
from igpt_jax.evaluation.likelihood import Likelihood
from igpt_jax.evaluation.orders import Orders
from igpt_jax.evaluation.pictures import PICTURES
from igpt_jax.evaluation.restoration import Restoration
from igpt_jax.training.loop import Evaluator

__all__ = ["EVALUATORS", "PICTURES", "EvalContext", "Evaluator", "Evaluators", "Figures", "summarize"]

EVALUATORS: dict[str, MakeEvaluator] = {
    "likelihood": Likelihood,
    "accuracy": Accuracy,
    "orders": Orders,
    "holes": Holes,
    "restoration": Restoration,
}


class Evaluators:
    """All evaluators of an objective, and others asked for, as one."""

    def __init__(self, context: EvalContext, more: Mapping[str, MakeEvaluator] | None = None):
        rows = {name: EVALUATORS[name] for name in context.objective.evaluators} | dict(more or {})
        self._evaluators = [make(context) for make in rows.values()]

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the (name, value) of all of them."""
        for evaluator in self._evaluators:
            yield from evaluator.run(params, step)


@dataclass(frozen=True)
class Figures:
    """What was measured on held-out images."""

    nats: Mapping[str, float]
    """Nats per (masked) token: of the model and of the baselines."""
    metric: str
    """What is averaged, as the objective names it: nats_per_token, nats_per_masked_token, ..."""
    images: int
    accuracy: float | None
    """Of the classification head, if there is one."""
    others: Mapping[str, float]
    """Everything else that was measured, by name."""


def summarize(measured: Mapping[str, float], context: EvalContext) -> Figures:
    """The measured values (name -> value), with the baselines beside them."""
    metric = context.objective.loss_name
    nats = {"model": measured[metric], **baselines(context)}
    accuracy = measured.get("accuracy", measured.get("clf_accuracy"))
    shown = {metric, metric.replace("nats", "bits"), "accuracy", "clf_accuracy"}
    others = {name: value for name, value in measured.items() if name not in shown}
    return Figures(nats, metric, len(context.held_out), accuracy, others)
