"""Evaluation: one table of evaluators and one of pictures, and the figures that a run reports.

An evaluator of your own is one row more: `EVALUATORS["mine"] = make_mine`, named by an objective's `evaluators`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from igpt_jax.analysis.baselines import baselines
from igpt_jax.analysis.classifiers import classify_pixels
from igpt_jax.analysis.codecs import Codecs
from igpt_jax.evaluation.accuracy import Accuracy
from igpt_jax.evaluation.base import EvalContext, MakeEvaluator
from igpt_jax.evaluation.bayes import Bayes
from igpt_jax.evaluation.holes import Holes
from igpt_jax.evaluation.likelihood import Likelihood
from igpt_jax.evaluation.orders import Orders
from igpt_jax.evaluation.pictures import PICTURES
from igpt_jax.evaluation.restoration import Restoration
from igpt_jax.evaluation.standard_error import mean_error
from igpt_jax.training.loop import Evaluator

__all__ = ["EVALUATORS", "PICTURES", "EvalContext", "Evaluator", "Evaluators", "Figures", "summarize"]

EVALUATORS: dict[str, MakeEvaluator] = {
    "likelihood": Likelihood,
    "accuracy": Accuracy,
    "orders": Orders,
    "holes": Holes,
    "restoration": Restoration,
    "bayes": Bayes,
    "codecs": Codecs,
}

WAYS = {"accuracy": "classification head", "bayes_accuracy": "Bayes' rule"}
"""What an evaluator calls the accuracy of a way to classify -> what tables call that way."""


class Evaluators:
    """All evaluators of an objective, and others asked for, as one."""

    def __init__(self, context: EvalContext, more: Mapping[str, MakeEvaluator] | None = None):
        rows = {name: EVALUATORS[name] for name in context.objective.evaluators} | dict(more or {})
        self._evaluators = [make(context) for make in rows.values()]

    @property
    def image_nats(self) -> np.ndarray | None:
        """float64 [M]: the nats per token of each held-out image in the last run, if a likelihood was measured; NaN
        where it was not."""
        return next((x.nats for x in self._evaluators if isinstance(x, Likelihood)), None)

    @property
    def right(self) -> np.ndarray | None:
        """float64 [M]: 1 where a held-out image was classified rightly in the last run, 0 where wrongly, NaN where it
        has no label; None if they were not classified."""
        classified = (x.right for x in self._evaluators if isinstance(x, Accuracy | Bayes))
        return next((right for right in classified if right is not None), None)

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the (name, value) of all of them."""
        for evaluator in self._evaluators:
            yield from evaluator.run(params, step)


@dataclass(frozen=True)
class Figures:
    """What was measured on held-out images."""

    nats: Mapping[str, float]
    """Nats per (masked) token: of the model and of the baselines."""
    errors: Mapping[str, float]
    """Their standard errors over groups of images; NaN where there is one group."""
    differences: Mapping[str, tuple[float, float]]
    """Of each baseline: its nats minus the model's, image by image, and the standard error of that."""
    metric: str
    """What is averaged, as the objective names it: nats_per_token, nats_per_masked_token, ..."""
    images: int
    groups: int
    """Of these images, as `data.group` says: variants of one picture are not independent. As many as images without."""
    kind: str
    """What these images are: held-out, validation or training; empty for all."""
    accuracies: Mapping[str, tuple[float, float]]
    """If the model classifies: its accuracy, then those of cheap classifiers. Each with its standard error."""
    accuracy_differences: Mapping[str, tuple[float, float]]
    """Of each cheap classifier: its accuracy minus the model's, image by image, and the standard error of that."""
    others: Mapping[str, float]
    """Everything else that was measured, by name."""

    @property
    def accuracy(self) -> float | None:
        """The model's, by its classification head or by Bayes' rule; None if it does not classify."""
        return next(iter(self.accuracies.values()))[0] if self.accuracies else None


def summarize(
    measured: Mapping[str, float],
    context: EvalContext,
    image_nats: np.ndarray | None = None,
    right: np.ndarray | None = None,
    network: bool = False,
) -> Figures:
    """The measured values (name -> value), with the baselines beside them.

    Args:
      image_nats: float64 [M], the model's nats of each held-out image, to compare the baselines with image by image.
      right: float64 [M], which held-out images the model classified rightly, for the same. NaN: not measured.
      network: one of the baselines is a small network that is trained now.
    """
    metric, groups = context.objective.loss_name, context.groups
    cheap = baselines(context, network)
    nats = {"model": measured[metric]} | {name: float(np.nanmean(values)) for name, values in cheap.items()}
    errors = {"model": measured.get(f"{metric}_se", math.nan)} | {
        name: mean_error(values, groups) for name, values in cheap.items()
    }
    accuracies = {
        way: (measured[name], measured.get(f"{name}_se", math.nan)) for name, way in WAYS.items() if name in measured
    }
    classifiers = classify_pixels(context) if accuracies else {}
    accuracies |= {name: (float(np.nanmean(x)), mean_error(x, groups)) for name, x in classifiers.items()}
    shown = {metric, f"{metric}_se", metric.replace("nats", "bits"), "clf_accuracy"}
    shown |= {f"{name}{suffix}" for name in WAYS for suffix in ("", "_se")}
    return Figures(
        nats=nats,
        errors=errors,
        differences=_minus(cheap, image_nats, groups),
        metric=metric,
        images=len(context.held_out),
        groups=len(np.unique(groups)),
        kind=context.kind,
        accuracies=accuracies,
        accuracy_differences=_minus(classifiers, right, groups),
        others={name: value for name, value in measured.items() if name not in shown},
    )


def _minus(
    cheap: Mapping[str, np.ndarray], model: np.ndarray | None, groups: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Of each cheap method its mean minus the model's, and the standard error of that; empty without the model's."""
    if model is None:
        return {}
    gaps = {name: values - model for name, values in cheap.items()}
    return {name: (float(np.nanmean(gap)), mean_error(gap, groups)) for name, gap in gaps.items()}
