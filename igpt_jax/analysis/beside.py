"""A model's figures beside those of cheap methods on the same images."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from igpt_jax.analysis.baselines import cheap_nats
from igpt_jax.analysis.classifiers import classify_pixels
from igpt_jax.evaluation import EachImage, Estimate, EvalContext, Figures, estimate

log = logging.getLogger(__name__)


def beside(figures: Figures, context: EvalContext, network: bool = False) -> Figures:
    """The figures with those of cheap methods, which learn from the training images: of the loss in nats, and of the
    first accuracy. None, with a line in the log, where the measured images are among those. Training a small `network`
    of neighbours, too, takes minutes.
    """
    if learns_from_measured(context):
        log.warning("no cheap methods: they would learn from the images that are measured")
        return figures
    cheap: dict[str, Mapping[str, Estimate]] = {}

    def stand(name: str, methods: Mapping[str, EachImage]) -> None:
        figure = figures.model[name].figure
        cheap[name] = {key: estimate(figure, images, figures.groups) for key, images in methods.items()}

    if figures.loss is not None:
        stand(figures.metric, cheap_nats(context, network))
    accuracy = next((name for name, e in figures.model.items() if e.figure.unit == "accuracy" and name != HEAD), None)
    if accuracy is not None:
        stand(accuracy, classify_pixels(context))
    return dataclasses.replace(figures, cheap=cheap)


HEAD = "clf_accuracy"
"""What objective joint logs while training: of one mask, where `accuracy` has the vote over several."""


def learns_from_measured(context: EvalContext) -> bool:
    """Whether cheap methods would have seen the measured images: those of split train or all, or of equal halves."""
    data = context.data
    return context.kind in ("training", "") or data.train.digest in (context.held_out.digest, data.held_out.digest)
