"""Evaluation: one table of evaluators and one of pictures, and the figures of a model.

An evaluator of your own is one row more: `EVALUATORS["mine"] = make_mine`, named by an objective's `evaluators` or by
`igpt eval --evaluators`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from igpt_jax.datasets import subset
from igpt_jax.errors import InputError, nearest
from igpt_jax.evaluation.base import (
    Driver,
    EachImage,
    Estimate,
    EvalContext,
    Evaluator,
    MakeEvaluator,
    difference,
    estimate,
)
from igpt_jax.evaluation.likelihood import make_accuracy, make_bayes, make_likelihood
from igpt_jax.evaluation.orders import make_holes, make_orders
from igpt_jax.evaluation.pictures import PICTURES
from igpt_jax.evaluation.quality import make_restoration
from igpt_jax.objectives import Figure

__all__ = [
    "EVALUATORS",
    "PICTURES",
    "EachImage",
    "Estimate",
    "EvalContext",
    "Evaluator",
    "Evaluators",
    "Figure",
    "Figures",
    "MakeEvaluator",
    "difference",
    "estimate",
]

log = logging.getLogger(__name__)

EVALUATORS: dict[str, MakeEvaluator] = {
    "likelihood": make_likelihood,
    "accuracy": make_accuracy,
    "orders": make_orders,
    "holes": make_holes,
    "restoration": make_restoration,
    "bayes": make_bayes,
}


@dataclass(frozen=True)
class Figures:
    """What was measured on images."""

    model: Mapping[str, Estimate]
    """Of the model, by name."""
    metric: str
    """The name of the objective's loss, which may not be among them: nats_per_token, nats_per_masked_token, ..."""
    groups: np.ndarray
    """int [M]: the group of each image, as `data.group` says; variants of one picture are not independent."""
    kind: str
    """What these images are: held-out, validation or training; empty for all."""
    cheap: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """Figure of the model -> the same of cheap methods, by name (`analysis.beside`)."""

    @property
    def images(self) -> int:
        return len(self.groups)

    @property
    def values(self) -> dict[str, float]:
        """Of the model: name -> value."""
        return {name: e.value for name, e in self.model.items()}

    @property
    def loss(self) -> Estimate | None:
        """The objective's loss; None if no evaluator measured it."""
        return self.model.get(self.metric)

    @property
    def accuracy(self) -> float | None:
        """The model's, by its classification head or by Bayes' rule; None if it does not classify."""
        return next((e.value for e in self.model.values() if e.figure.unit == "accuracy"), None)


class Evaluators:
    """All evaluators of an objective and others asked for: names in `EVALUATORS`, and the caller's `own` rows."""

    def __init__(self, context: EvalContext, names: Sequence[str] = (), own: Mapping[str, MakeEvaluator] | None = None):
        rows = {name: _row(name) for name in (*context.objective.evaluators, *names)} | dict(own or {})
        self._context = context
        self._drivers = [Driver(context, make(context), name) for name, make in rows.items()]
        self.figures = {key: figure for driver in self._drivers for key, figure in driver.evaluator.figures.items()}
        """What is measured, by name."""
        self.last: tuple[int, Figures] | None = None
        """The step that `run` measured last, and what it measured."""

    def measure(self, params: Any) -> Figures:
        """Measures weights."""
        context, measured = self._context, {}
        for driver in self._drivers:
            evaluator, images = driver.evaluator, driver.run(params)
            groups = context.groups if evaluator.most is None else subset(context.held_out, evaluator.most).groups
            for key in [key for key in evaluator.figures if key in images]:
                measured[key] = estimate(evaluator.figures[key], images[key], groups)
            for key, value in evaluator.derive(images).items():
                measured[key] = Estimate(evaluator.figures[key], value)
        for key in [key for key, e in measured.items() if math.isnan(e.value)]:
            log.warning("%s is not measured: it counts none of the %s images", key, context.kind)
            del measured[key]
        return Figures(measured, context.objective.loss_name, context.groups, context.kind)

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the (name, value) of all figures, `_se` for standard errors, and the loss in bits, too."""
        self.last = step, self.measure(params)
        for name, measured in self.last[1].model.items():
            yield name, measured.value
            if name == self._context.objective.loss_name and measured.figure.unit == "nats":
                yield name.replace("nats", "bits"), measured.value / math.log(2)
            if not math.isnan(measured.error):
                yield f"{name}_se", measured.error


def _row(name: str) -> MakeEvaluator:
    if name not in EVALUATORS:
        known = f"there are {', '.join(EVALUATORS)}, and those of plugins"
        raise InputError(f"evaluators: no evaluator {name!r}{nearest(name, EVALUATORS)}; {known}")
    return EVALUATORS[name]
