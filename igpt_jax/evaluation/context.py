"""From a trained model to what evaluators are made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from igpt_jax.config import MeshConfig
from igpt_jax.data.sources.base import Source, Split
from igpt_jax.datasets import open_data
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext
from igpt_jax.model import AXES
from igpt_jax.objectives import MakeObjective, bind_objective
from igpt_jax.parallel.mesh import make_mesh, mesh_of, shardings
from igpt_jax.pretrained import Pretrained


def make_eval_context(
    pretrained: Pretrained,
    whole: bool = False,
    source: Mapping[Split, Source] | None = None,
    objective: MakeObjective | None = None,
) -> tuple[EvalContext, Any]:
    """The context of a trained model on the held-out images of its configuration, and its parameters.

    Both are on the mesh that the parameters lie on; if they lie on one device, all devices split the batch.

    Args:
      whole: on all images of its configuration.
      source, objective: those that the run was given as objects.

    Raises:
      InputError: the images are not those of the run, or the objective is not that of the run.
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
