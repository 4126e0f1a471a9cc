"""The network that guesses colours, fitted to what an objective makes of training batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import Config
from igpt_jax.objectives import Batch, Objective, drop_classes
from igpt_jax.parallel.mesh import put_batch
from igpt_jax.sampling.draft import Draft, fit_draft
from igpt_jax.sequence import Example


def draft_of(
    cfg: Config, objective: Objective, batches: Iterator[Mapping[str, np.ndarray]], mesh: Mesh, steps: int
) -> Draft:
    """The network of a run, or of weights from elsewhere with images like those that they learned from."""

    def example(batch: Batch, keys_B: jax.Array) -> Example:
        return drop_classes(objective.example(batch, keys_B), keys_B, cfg.class_dropout)

    return fit_draft(cfg.model, example, (put_batch(batch, mesh) for batch in batches), steps, cfg.seed, mesh)
