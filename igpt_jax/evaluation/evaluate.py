"""What a trained model's figures are on images: the one call behind `igpt eval`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from igpt_jax.analysis.baselines import learning_images
from igpt_jax.data.sources.base import Selection
from igpt_jax.datasets import subset
from igpt_jax.errors import InputError
from igpt_jax.evaluation import EVALUATORS, Evaluators, Figures, summarize
from igpt_jax.evaluation.context import context_of
from igpt_jax.parallel.mesh import outside_mesh
from igpt_jax.pretrained import Pretrained


@outside_mesh
def evaluate(
    pretrained: Pretrained,
    split: Selection | Literal["validation"] = "eval",
    network: bool = False,
    more: Sequence[str] = (),
    images: int | None = None,
) -> Figures:
    """Figures of a trained model on the images of its configuration.

    Computed on the mesh that the parameters lie on; if they lie on one device, all devices split the batch.

    Args:
      split: `eval` for the held-out images, `train` for the others, `validation` for those that were set aside from
        them, `all` for every image once. The baselines learn from the images of `train` or, with `all`, from all; so
        with these two they have seen what they are measured on.
      network: one of the baselines is a small network of neighbours, which takes minutes to train.
      more: names in `evaluation.EVALUATORS`, beside those of the objective.
      images: how many are measured, spread evenly over the split; None for all.

    Raises:
      InputError: as `open_data`; the palette does not fit; a model that knows classes gets images of others; there
        are too few training images for the network; or `images` is below 1.
    """
    if images is not None and images < 1:
        raise InputError(f"--images {images}: must be at least 1")
    cfg = pretrained.config
    context, params = context_of(pretrained, whole=split == "all")
    data = context.data
    names, learned = data.held_out.class_names, pretrained.class_names
    if (cfg.model.clf_classes or cfg.model.cond_classes) and names and learned and names != learned:
        raise InputError(f"data.source: {cfg.data.source} has other classes than the images of the training")
    halves = {"train": data.train, "validation": data.validation, "eval": data.held_out, "all": data.held_out}
    if (measured_on := halves[split]) is None:
        raise InputError("split validation: no images were set aside; data.validation says how many are")
    kind = {"train": "training", "validation": "validation", "eval": "held-out", "all": ""}[split]
    context = dataclasses.replace(context, held_out=subset(measured_on, images), kind=kind)
    learning_images(context, network)  # too few for the network: refused before minutes of measuring
    evaluators = Evaluators(context, {name: EVALUATORS[name] for name in more})
    measured = dict(evaluators.run(params, pretrained.step or 0))
    return summarize(measured, context, evaluators.image_nats, evaluators.right, network)
