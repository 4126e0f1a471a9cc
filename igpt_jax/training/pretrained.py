"""A trained model and all that is needed to use it: read from a run, written for another, and begun with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from igpt_jax.config import Config, InputError
from igpt_jax.model.decoder import AXES, ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import path_name, placed
from igpt_jax.parallel.multihost import decide
from igpt_jax.training.checkpoint import CHECKPOINTS, DamagedError, Meta, describe, described, read_item, reader
from igpt_jax.training.state import TrainState
from igpt_jax.training.workdir import claim_workdir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """A trained model and all that is needed to use it."""

    model: ImageGPT
    params: Any
    """float32."""
    palette: Palette | None
    """None where the source of the weights holds none."""
    config: Config
    """Of weights from elsewhere it tells the model and the objective; the rest is at its defaults."""
    step: int | None
    """Optimizer steps behind the weights, where that is known."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Digests of the images of the run; none where the weights come from elsewhere."""

    @property
    def colors(self) -> Palette:
        """The palette; InputError where there is none."""
        if self.palette is None:
            raise InputError(
                "palette: these weights came without one; name the .npy that they were trained with (--palette)"
            )
        return self.palette


def load_workdir(workdir: str | Path, step: int | None = None, mesh: Mesh | None = None) -> Pretrained:
    """Reads a run's model: the averaged weights where the run kept them, else the plain ones.

    Args:
      workdir: as given to `igpt train`.
      step: which checkpoint; by default the newest that is whole.
      mesh: where the parameters go; by default to the first device, whole.

    Raises:
      InputError: no such directory, no checkpoint, not at that step, or a damaged one.
    """
    workdir = Path(workdir)
    decide(lambda: _check_there(workdir))
    begun = described(workdir, step)
    if not begun:
        raise InputError(f"workdir {workdir}: holds no complete checkpoint yet")
    with reader(workdir) as (manager, _):
        for meta in begun:
            try:
                return _read(manager, workdir, meta, mesh)
            except DamagedError as error:
                if meta is begun[-1]:
                    raise
                log.warning("%s; taking the one before it", error)
    raise AssertionError("unreachable")


def _check_there(workdir: Path) -> None:
    if not workdir.is_dir():
        raise InputError(f"workdir {workdir}: no such directory; `igpt train` makes one")
    if not (workdir / CHECKPOINTS).is_dir():
        raise InputError(f"workdir {workdir}: holds no checkpoints; `igpt train` makes them")


def _read(manager: ocp.CheckpointManager, workdir: Path, meta: Meta, mesh: Mesh | None) -> Pretrained:
    model = ImageGPT(meta.config.model)
    target = placed(abstract_params(model), mesh, AXES)
    item = "ema" if meta.config.optim.ema_decay is not None else "params"
    params = read_item(manager, workdir, meta, item, target)
    return Pretrained(model, params, meta.palette, meta.config, meta.step, meta.data)


def save_pretrained(found: Pretrained, workdir: Path) -> None:
    """Writes weights as a workdir of one checkpoint that `load_workdir` reads back; no run goes on in it.

    Raises:
      InputError: the directory holds something already, or cannot be written.
    """
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"workdir {workdir}: holds something already; name a new or empty directory")
    cfg = replace(found.config, optim=replace(found.config.optim, ema_decay=None))
    with claim_workdir(workdir, cfg):
        if found.palette is not None:
            found.palette.save(workdir / "palette.npy")
        meta = ocp.args.JsonSave(describe(cfg, found.palette, {}, {}, {"params": found.params}))
        args = ocp.args.Composite(params=ocp.args.StandardSave(found.params), meta=meta)
        with ocp.CheckpointManager((workdir / CHECKPOINTS).resolve()) as manager:
            manager.save(found.step or 0, args=args, force=True)


ZERO_AT_START = ("clf", "class_table", "b")
"""Ends of parameter paths that weights to begin with may lack: at zero, the model computes the same without them."""


def check_initial(abstract: TrainState, cfg: Config, found: Pretrained) -> None:
    """Whether a run may begin with these weights: every parameter is there and fits.

    Raises:
      InputError: missing, extra and mis-shaped parameters, all of them named, or another grid.
    """
    origin = f"train.init_from {cfg.train.init_from}"
    if found.config.model.grid != cfg.model.grid:
        raise InputError(f"{origin}: made for the grid {found.config.model.grid}, but model.grid is {cfg.model.grid}")
    want, have = (
        {path_name(path): x.shape for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (abstract.params, found.params)
    )
    faults = [f"no {name}" for name in want.keys() - have.keys() if name.split("/")[-1] not in ZERO_AT_START]
    faults += [f"{name} is not in this model" for name in have.keys() - want.keys()]
    faults += [
        f"{name} is {have[name]} there and {want[name]} here" for name in want.keys() & have if want[name] != have[name]
    ]
    if faults:
        raise InputError(f"{origin}: does not fit the model ({'; '.join(sorted(faults))}); set model.* as it was made")


def begin_with(state: TrainState, found: Pretrained) -> TrainState:
    """The fresh state with its parameters replaced by the given ones, which have been checked, and averages alike."""
    given = {path_name(path): x for path, x in jax.tree.leaves_with_path(found.params)}
    places = jax.tree.map(lambda x: x.sharding, state.params)
    # a copy: the step donates its state, and those weights are not ours to give away
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=places)
    params = jax.tree.map_with_path(
        lambda path, x: jax.device_put(given.get(path_name(path), x), x.sharding), state.params
    )
    return state.replace(params=copy(params), ema=None if state.ema is None else copy(params))  # pyright: ignore


def abstract_params(model: ImageGPT) -> Any:
    """Shapes and types of the parameters, nothing allocated."""
    plain = ImageGPT(replace(model.cfg, attention="reference"))  # the same parameters, traced in a third of the time
    tokens = jax.ShapeDtypeStruct((1, model.cfg.n_ctx), np.int32)
    return jax.eval_shape(plain.init, jax.random.key(0), tokens)["params"]
