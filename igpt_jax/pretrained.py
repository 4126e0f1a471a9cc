"""A model, its weights, palette and config: load, save, initialise from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from igpt_jax.config import Config
from igpt_jax.errors import InputError
from igpt_jax.model import AXES, OPTIONAL, ImageGPT, abstract_params
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import path_name, with_shardings
from igpt_jax.parallel.processes import on_process_zero
from igpt_jax.training.checkpoint import (
    CHECKPOINTS,
    CheckpointMeta,
    DamagedError,
    list_checkpoints,
    read_weights,
    save_weights,
)
from igpt_jax.training.step import TrainState, make_model
from igpt_jax.training.workdir import claim_workdir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """A trained model and all that is needed to use it."""

    model: ImageGPT
    params: Any
    """float32."""
    palette: Palette | None
    """None if the source of the weights has none."""
    config: Config
    """For weights imported from elsewhere, only the model and the objective are known; the rest is at its defaults."""
    step: int | None
    """Optimizer steps behind the weights, if known."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Digests of the images of the run; empty for weights imported from elsewhere."""

    @property
    def colors(self) -> Palette:
        """The palette; InputError if there is none."""
        if self.palette is None:
            raise InputError(
                "palette: these weights came without one; name the .npy that they were trained with (--palette)"
            )
        return self.palette


def load_workdir(workdir: str | Path, step: int | None = None, mesh: Mesh | None = None) -> Pretrained:
    """Reads a run's model: the averaged weights if the run kept them, else the plain ones.

    Args:
      workdir: as given to `igpt train`.
      step: which checkpoint; None for the newest that is intact.
      mesh: where the parameters go; None for the first device, whole.

    Raises:
      InputError: no such directory, no checkpoint, not at that step, or a damaged one.
    """
    workdir = Path(workdir)
    on_process_zero(lambda: _require_checkpoints(workdir))
    checkpoints = list_checkpoints(workdir, step)
    if not checkpoints:
        raise InputError(f"workdir {workdir}: holds no complete checkpoint yet")
    for meta in checkpoints:
        try:
            target = with_shardings(abstract_params(meta.config.model), mesh, AXES)
            params = read_weights(workdir, meta, target)
            return Pretrained(make_model(meta.config), params, meta.palette, meta.config, meta.step, meta.data)
        except DamagedError as error:
            if meta is checkpoints[-1]:
                raise
            log.warning("%s; taking the one before it", error)
    raise AssertionError("unreachable")


def _require_checkpoints(workdir: Path) -> None:
    if not workdir.is_dir():
        raise InputError(f"workdir {workdir}: no such directory; `igpt train` makes one")
    if not (workdir / CHECKPOINTS).is_dir():
        raise InputError(f"workdir {workdir}: holds no checkpoints; `igpt train` makes them")


def save_pretrained(pretrained: Pretrained, workdir: Path) -> None:
    """Writes weights as a workdir of one checkpoint that `load_workdir` reads back. No run can be continued in it.

    Raises:
      InputError: the directory holds something already, or cannot be written.
    """
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"workdir {workdir}: holds something already; name a new or empty directory")
    cfg = replace(pretrained.config, optim=replace(pretrained.config.optim, ema_decay=None))
    with claim_workdir(workdir, cfg):
        if pretrained.palette is not None:
            pretrained.palette.save(workdir / "palette.npy")
        meta = CheckpointMeta(pretrained.step or 0, cfg, pretrained.palette, {}, {}, {})
        save_weights(workdir, meta, pretrained.params)


def check_initial(abstract: TrainState, cfg: Config, pretrained: Pretrained) -> None:
    """Checks that a run can start from these weights: every parameter is there and fits.

    Raises:
      InputError: missing, extra and mis-shaped parameters, all of them named, or another grid.
    """
    origin = f"init_from {cfg.init_from}"
    # An image model starts a video model: same frame, and the table of frames at zero.
    frame, there = cfg.model.grid[-2:], pretrained.config.model.grid
    if there not in (cfg.model.grid, frame):
        raise InputError(f"{origin}: made for the grid {there}, but model.grid is {cfg.model.grid}")
    wanted, shapes = (
        {path_name(path): x.shape for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (abstract.params, pretrained.params)
    )
    faults = [f"no {name}" for name in wanted.keys() - shapes.keys() - OPTIONAL]
    faults += [f"{name} is not in this model" for name in shapes.keys() - wanted.keys()]
    faults += [
        f"{name} is {shapes[name]} there and {wanted[name]} here"
        for name in wanted.keys() & shapes
        if wanted[name] != shapes[name]
    ]
    if faults:
        raise InputError(f"{origin}: does not fit the model ({'; '.join(sorted(faults))}); set model.* as it was made")


def init_from_pretrained(state: TrainState, pretrained: Pretrained) -> TrainState:
    """The initial state with its parameters, and their average, replaced by checked weights (`check_initial`)."""
    weights = {path_name(path): x for path, x in jax.tree.leaves_with_path(pretrained.params)}
    places = jax.tree.map(lambda x: x.sharding, state.params)
    # A copy, because the train step donates its state and these weights belong to the caller.
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=places)
    params = jax.tree.map_with_path(
        lambda path, x: jax.device_put(weights.get(path_name(path), x), x.sharding), state.params
    )
    return state.replace(params=copy(params), ema=None if state.ema is None else copy(params))  # pyright: ignore
