"""The programs of a run, made from its configuration alone: what `igpt train` runs and `igpt plan` compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from igpt_jax.config import Config
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.objectives import OBJECTIVES, Objective
from igpt_jax.palette import Palette
from igpt_jax.training.optimizer import make_optimizer, make_schedule
from igpt_jax.training.state import TrainState, make_init, make_train_step


class Program(NamedTuple):
    """The jitted functions of a run and the shape of its state; nothing is allocated yet."""

    model: ImageGPT
    objective: Objective
    schedule: optax.Schedule
    init: Callable[[], TrainState]
    abstract: TrainState
    """Shapes, types and shardings of the state."""
    train_step: jax.stages.Wrapped
    """(state, batch) -> (state, metrics)."""


def make_program(cfg: Config, palette: Palette, mesh: Mesh) -> Program:
    """Raises InputError when sizes of the model do not divide over the mesh."""
    model = ImageGPT(cfg.model)
    objective = OBJECTIVES[cfg.objective](model, palette)
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    init, abstract = make_init(model, tx, cfg.seed, cfg.optim.ema_decay is not None, mesh)
    train_step = make_train_step(
        objective,
        tx,
        seed=cfg.seed,
        microbatches=cfg.train.microbatches,
        ema_decay=cfg.optim.ema_decay,
        abstract=abstract,
        mesh=mesh,
    )
    return Program(model, objective, make_schedule(cfg.optim, cfg.train.steps), init, abstract, train_step)
