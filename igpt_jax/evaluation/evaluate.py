"""What a trained model's figures are on images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax

from igpt_jax.config import MeshConfig
from igpt_jax.data.sources.base import Selection, Source, Split
from igpt_jax.datasets import open_data, subset
from igpt_jax.errors import InputError
from igpt_jax.evaluation import EvalContext, Evaluators, Figures, MakeEvaluator
from igpt_jax.model import AXES
from igpt_jax.objectives import MakeObjective, bind_objective
from igpt_jax.parallel.mesh import make_mesh, mesh_of, outside_mesh, shardings
from igpt_jax.pretrained import Pretrained

Measured = Selection | Literal["validation"]
KINDS: dict[Measured, str] = {"train": "training", "validation": "validation", "eval": "held-out", "all": ""}


@outside_mesh
def evaluate(
    pretrained: Pretrained,
    split: Measured = "eval",
    evaluators: Sequence[str] | Mapping[str, MakeEvaluator] = (),
    images: int | None = None,
    *,
    source: Mapping[Split, Source] | None = None,
    objective: MakeObjective | None = None,
) -> Figures:
    """Figures of a trained model on the images of its configuration. `igpt eval` puts cheap methods beside them.

    Computed on the mesh that the parameters lie on; if they lie on one device, all devices split the batch.

    Args:
      split: `eval` for the held-out images, `train` for the others, `validation` for those that were split off
        them, `all` for every image once.
      evaluators: beside those of the objective: names in `EVALUATORS`, or rows of one's own by name.
      images: how many are measured, spread evenly over the split; None for all.
      source, objective: those that the run was given as objects.

    Raises:
      InputError: these are not the images, classes or objective of the run; or an evaluator does not fit the model.
    """
    context, params = select_images(pretrained, split, images, source, objective)
    own = evaluators if isinstance(evaluators, Mapping) else {}
    return Evaluators(context, () if own else tuple(evaluators), own).measure(params)


def select_images(
    pretrained: Pretrained,
    split: Measured = "eval",
    images: int | None = None,
    source: Mapping[Split, Source] | None = None,
    objective: MakeObjective | None = None,
) -> tuple[EvalContext, Any]:
    """The context of a trained model on a split of its images, and its parameters; arguments as for `evaluate`."""
    if images is not None and images < 1:
        raise InputError(f"images: must be at least 1, not {images}")
    cfg = pretrained.config
    context, params = make_eval_context(pretrained, split == "all", source, objective)
    data = context.data
    names, learned = data.held_out.class_names, pretrained.class_names
    if (cfg.model.clf_classes or cfg.model.cond_classes) and names and learned and names != learned:
        raise InputError(f"data.source: {cfg.data.source} has other classes than the images of the training")
    halves = {"train": data.train, "validation": data.validation, "eval": data.held_out, "all": data.held_out}
    if (measured := halves[split]) is None:
        raise InputError("split validation: no images were set aside; data.validation says how many are")
    return dataclasses.replace(context, held_out=subset(measured, images), kind=KINDS[split]), params


def make_eval_context(
    pretrained: Pretrained,
    whole: bool = False,
    source: Mapping[Split, Source] | None = None,
    objective: MakeObjective | None = None,
) -> tuple[EvalContext, Any]:
    """The context of a trained model on the held-out images of its configuration, or on all of them if `whole`, and its
    parameters. Both are on the mesh that the parameters lie on; if they lie on one device, all devices split the batch.
    """
    cfg, params = pretrained.config, pretrained.params
    mesh = mesh_of(params)
    if mesh is None:
        mesh = make_mesh(MeshConfig())
        params = jax.device_put(params, shardings(params, mesh, AXES))
    data = open_data(cfg, mesh, source, whole=whole)
    if pretrained.data and not whole and dict(pretrained.data) != data.digests:
        raise InputError(
            f"data.source: {cfg.data.source} does not hold the images of the run (it had {pretrained.data['images']}, "
            f"there are {data.digests['images']}); restore the original files, pass the source that the run was given, "
            "or name other images to measure on"
        )
    palette = pretrained.colors.checked(cfg.model.vocab_size, cfg.data.channels, "of the weights")
    bound = bind_objective(cfg, palette, objective, pretrained.extensions.get("objective", ""))
    return EvalContext(pretrained.model, bound, palette, cfg, data, data.held_out), params
