"""What is measured on held-out images: the evaluators a configuration asks for, and baselines that put them in
proportion.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import Mesh

from igpt_jax.config import Config, MeshConfig
from igpt_jax.data.sources import Source
from igpt_jax.evaluation.classes import Accuracy
from igpt_jax.evaluation.likelihood import MASKS, Batches, Likelihood, histogram_nats, uniform_nats
from igpt_jax.inputs import Data, check_palette, open_data, subset
from igpt_jax.model.decoder import AXES, ImageGPT
from igpt_jax.objectives import OBJECTIVES, Objective, headline
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import make_mesh, mesh_of, shardings
from igpt_jax.training.loop import Evaluator
from igpt_jax.training.pretrained import Pretrained

BASELINE_IMAGES = 10_000
"""Training images that the histogram baseline counts."""


@dataclass(frozen=True)
class Figures:
    """What was measured on held-out images."""

    nats: Mapping[str, float]
    """Nats per (masked) token: of the model and of the baselines."""
    metric: str
    """nats_per_token or nats_per_masked_token."""
    images: int
    accuracy: float | None
    """Of the classification head, where there is one."""


def measures(
    model: ImageGPT, objective: Objective, palette: Palette, cfg: Config, batches: Batches, mesh: Mesh
) -> dict[str, Evaluator]:
    """What is measured on held-out images: the objective, which tells an AR model's accuracy too, and BERT's vote."""
    draws = 1 if cfg.model.causal else MASKS
    found: dict[str, Evaluator] = {"eval": Likelihood(objective, batches, mesh, cfg.seed, draws)}
    if cfg.model.clf_classes and not cfg.model.causal:
        found["classes"] = Accuracy(model, palette, batches, mesh, cfg.seed)
    return found


def run_all(evaluators: Mapping[str, Evaluator], params: Any, step: int) -> dict[str, float]:
    """'evaluator/name' -> value."""
    return {f"{key}/{name}": x for key, evaluator in evaluators.items() for name, x in evaluator.run(params, step)}


def gather(found: Mapping[str, float], trained: Pretrained, data: Data, held_out: Source) -> Figures:
    """What the evaluators found, with the baselines beside it."""
    metric = headline(trained.config.model)
    nats = {"model": found[f"eval/{metric}"], **baselines(trained.colors, data, held_out)}
    return Figures(nats, metric, len(held_out), found.get("classes/accuracy", found.get("eval/clf_accuracy")))


def baselines(palette: Palette, data: Data, held_out: Source) -> dict[str, float]:
    """Nats per token on held-out images of two models that need no training to speak of."""
    counted = subset(data.train, BASELINE_IMAGES)
    return {
        "per-pixel histograms": histogram_nats(
            functools.partial(data.eval_batches, counted),
            functools.partial(data.eval_batches, held_out),
            palette,
            data.mesh,
        ),
        "uniform": uniform_nats(palette.size),
    }


def held_out_figures(found: Pretrained) -> Figures:
    """Of a trained model, on all held-out images of its configuration.

    Computed on the mesh that the parameters lie on; where they lie on one device, all devices split the batch.
    """
    cfg = found.config
    mesh = mesh_of(found.params)
    if mesh is None:
        mesh = make_mesh(MeshConfig())
        found = replace(found, params=jax.device_put(found.params, shardings(found.params, mesh, AXES)))
    data = open_data(cfg, mesh)
    palette = check_palette(cfg, found.colors, "of the weights")
    batches = functools.partial(data.eval_batches, data.held_out)
    objective = OBJECTIVES[cfg.objective](found.model, palette)
    measured = run_all(measures(found.model, objective, palette, cfg, batches, mesh), found.params, found.step or 0)
    return gather(measured, found, data, data.held_out)
