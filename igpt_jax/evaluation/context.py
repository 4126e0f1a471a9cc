"""From a trained model to what evaluators are made from."""

from __future__ import annotations

from typing import Any

import jax

from igpt_jax.config import MeshConfig
from igpt_jax.datasets import open_data
from igpt_jax.evaluation.base import EvalContext
from igpt_jax.model import AXES
from igpt_jax.objectives import make_objective
from igpt_jax.parallel.mesh import make_mesh, mesh_of, shardings
from igpt_jax.pretrained import Pretrained


def context_of(pretrained: Pretrained, whole: bool = False) -> tuple[EvalContext, Any]:
    """The context of a trained model on the held-out images of its configuration, and its parameters.

    Both are on the mesh that the parameters lie on; if they lie on one device, all devices split the batch.

    Args:
      whole: on all images of its configuration.

    Raises:
      InputError: as `open_data`, or the palette does not fit.
    """
    cfg, params = pretrained.config, pretrained.params
    mesh = mesh_of(params)
    if mesh is None:
        mesh = make_mesh(MeshConfig())
        params = jax.device_put(params, shardings(params, mesh, AXES))
    data = open_data(cfg, mesh, whole=whole)
    palette = pretrained.colors.checked(cfg.model.vocab_size, cfg.data.channels, "of the weights")
    objective = make_objective(cfg, palette)
    return EvalContext(pretrained.model, objective, palette, cfg, data, data.held_out), params
