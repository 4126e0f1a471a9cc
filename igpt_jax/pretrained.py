"""A model, its weights, palette and config: load, check, describe, save, initialise from."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import Config, ModelConfig
from igpt_jax.errors import InputError, nearest
from igpt_jax.files import local_path, normal_form
from igpt_jax.model import AXES, CONDITIONING, ImageGPT, abstract_params, is_optional
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import mesh_of, path_name, replicated, with_shardings
from igpt_jax.parallel.processes import on_process_zero, raise_on_all
from igpt_jax.sampling.draft import Draft
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
    class_names: tuple[str, ...] = ()
    """Name i belongs to class i; empty if the images have no classes, or their names are not known."""
    class_counts: tuple[int, ...] = ()
    """How many training images each class had; empty if that is not known."""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """Custom parts that the run was given as objects: objective or evaluators -> names."""
    draft: Draft | None = None
    """A small network that guesses colours, with which drawing is faster; None if there is none."""

    @property
    def colors(self) -> Palette:
        """The palette; InputError if there is none."""
        if self.palette is None:
            raise InputError(
                "palette: these weights came without one; name the .npy that they were trained with (--palette)"
            )
        return self.palette


def describe(pretrained: Pretrained) -> dict[str, Any]:
    """What a model is, in values for JSON: objective, sizes, classes, step, palette, and the source of a run's images.

    `classes` is how many classes the model knows, 0 for none; `class_names` may be empty. `palette` and `source` are
    None where there is none: weights imported from elsewhere come without a source.
    """
    cfg, palette = pretrained.config.model, pretrained.palette
    return {
        "name": pretrained.config.name,
        "objective": pretrained.config.objective,
        "layers": cfg.n_layer,
        "width": cfg.d_model,
        "heads": cfg.n_head,
        "grid": list(cfg.grid),
        "vocab": cfg.vocab_size,
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(pretrained.params)),
        "classes": cfg.cond_classes or cfg.clf_classes,
        "class_names": list(pretrained.class_names),
        "class_conditional": cfg.cond_classes > 0,
        "classifies": cfg.clf_classes > 0,
        "any_order": cfg.any_order,
        "step": pretrained.step,
        "palette": None if palette is None else {"colors": palette.size, "channels": palette.channels},
        "source": pretrained.config.data.source if pretrained.data else None,
    }


def class_index(pretrained: Pretrained, name_or_number: str) -> int:
    """The number of a class that is named, or numbered: 'cat' -> 3, '3' -> 3, and '-1' -> -1 for no class.

    A class whose name is a number is found by its name.
    """
    cfg, names = pretrained.config.model, pretrained.class_names
    name_or_number = normal_form(name_or_number)
    count = cfg.cond_classes or cfg.clf_classes
    asked = f"class {name_or_number!r}"
    if not count:
        raise InputError(f"{asked}: this model knows no classes; train one with model.cond_classes")
    if name_or_number in names:
        return names.index(name_or_number)
    if name_or_number in map(str, range(-1, count)):
        return int(name_or_number)
    if not names:
        raise InputError(f"{asked}: the names of the classes are not known; give a number from 0 to {count - 1}")
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    near = nearest(name_or_number, names)
    raise InputError(f"{asked}: must be one of {listed}, or a number from 0 to {count - 1}{near}")


def load_workdir(
    workdir: str | Path, step: int | None = None, mesh: Mesh | None = None, allow_nonfinite: bool = False
) -> Pretrained:
    """Reads a run's model: the averaged weights if the run kept them, else the plain ones.

    `step` None takes the newest checkpoint that is intact; `mesh` None places the parameters on the first device.
    """
    workdir = local_path(workdir, "workdir")
    checkpoints = workdir_checkpoints(workdir, step)
    for meta in checkpoints:
        try:
            target = with_shardings(abstract_params(meta.config.model), mesh, AXES)
            params = read_weights(workdir, meta, target)
        except DamagedError as error:
            if meta is checkpoints[-1]:
                raise
            log.warning("%s; taking the one before it", error)
            continue
        if not allow_nonfinite:
            require_finite(params, f"{workdir} at step {meta.step}")
        known = meta.data, meta.class_names, meta.class_counts, meta.extensions
        return Pretrained(make_model(meta.config), params, meta.palette, meta.config, meta.step, *known)
    raise AssertionError("unreachable")


def workdir_checkpoints(workdir: Path, step: int | None = None) -> list[CheckpointMeta]:
    """The metadata of a workdir's checkpoints, or of the one at a step, newest first; at least one."""

    def require_there() -> None:
        if not workdir.is_dir():
            raise InputError(f"workdir {workdir}: no such directory; `igpt train` makes one")
        if not (workdir / CHECKPOINTS).is_dir():
            raise InputError(f"workdir {workdir}: holds no checkpoints; `igpt train` makes them")

    on_process_zero(require_there)
    checkpoints = list_checkpoints(workdir, step)
    if not checkpoints:
        raise InputError(f"workdir {workdir}: holds no complete checkpoint yet")
    return checkpoints


def require_finite(params: Any, origin: str) -> None:
    """Raises InputError that names the parameters which hold NaN or Inf, and their layers, on all processes alike."""

    def is_bad(x: jax.Array) -> jax.Array:
        return ~jnp.isfinite(x).all()

    def by_layer(path: Any, x: jax.Array) -> jax.Array:
        # where the layers lie, one after another: XLA for CPU stores what is then reduced
        return jax.lax.map(is_bad, x) if path_name(path).startswith("h/") else is_bad(x)[None]

    places = None if (mesh := mesh_of(params)) is None else replicated(mesh)
    bad = jax.device_get(jax.jit(partial(jax.tree.map_with_path, by_layer), out_shardings=places)(params))
    faults = {path_name(path): np.flatnonzero(x).tolist() for path, x in jax.tree.leaves_with_path(bad) if x.any()}
    names = [f"{name} (layers {layers})" if name.startswith("h/") else name for name, layers in faults.items()]
    with raise_on_all():  # without a mesh, every process has read its own files
        if names:
            listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")
            raise InputError(f"{origin}: holds NaN or Inf: {listed}; allow_nonfinite loads it anyway")


def save_pretrained(pretrained: Pretrained, workdir: Path) -> None:
    """Writes weights as a workdir of one checkpoint that `load_workdir` reads back. No run can be continued in it."""
    workdir = local_path(workdir, "workdir")
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"workdir {workdir}: holds something already; name a new or empty directory")
    cfg = replace(pretrained.config, optim=replace(pretrained.config.optim, ema_decay=None))
    with claim_workdir(workdir, cfg):
        if pretrained.palette is not None:
            pretrained.palette.save(workdir / "palette.npy")
        known = pretrained.palette, {}, {}, {}, pretrained.class_names, pretrained.class_counts
        save_weights(workdir, CheckpointMeta(pretrained.step or 0, cfg, *known), pretrained.params)


_CAN_BE_ADDED = {part.name for part in fields(ModelConfig) if not part.default}
"""What weights to start from may lack: the parameters are new (`is_optional`, `CONDITIONING`)."""


def model_from_weights(asked: ModelConfig, weights: ModelConfig) -> ModelConfig:
    """The model of a run that starts from weights: their sizes, with the additions that the run asks for.

    Sizes are grid, palette, layers, heads, width, biases, variants, and whether it is causal. Classes, other orders and
    a conditioning picture are those that are asked for, and where none are, those of the weights. So are the frames of
    a model of clips that starts from a model of pictures.
    """
    picture = asked if asked.has_conditioning else weights
    starts_clips = len(asked.grid) == 3 and len(weights.grid) == 2
    return replace(
        weights,
        grid=(asked.grid[0], *weights.grid) if starts_clips else weights.grid,
        clf_classes=asked.clf_classes or weights.clf_classes,
        clf_layer=weights.clf_layer if asked.clf_layer is None else asked.clf_layer,
        cond_classes=asked.cond_classes or weights.cond_classes,
        any_order=asked.any_order or weights.any_order,
        prefix_slots=picture.prefix_slots,
        prefix_values=picture.prefix_values,
        aligned_values=picture.aligned_values,
    )


def check_initial(abstract: TrainState, cfg: Config, pretrained: Pretrained) -> None:
    """Raises InputError, which names all differences, unless a run can start from these weights."""
    here, there = cfg.model, pretrained.config.model
    faults, remedies = _grid_faults(cfg, there), ["set model.* as it was made"]
    if faults and cfg.init_grid == "same" and not _grid_faults(replace(cfg, init_grid="interpolate"), there):
        remedies.append("--init-grid interpolate resizes its position tables")
    for name, old in asdict(there).items():
        new = getattr(here, name)
        if name != "grid" and old != new and not (name in _CAN_BE_ADDED and not old):
            faults.append(f"{name} is {old} there and {new} here")
    if not faults:
        params = jax.eval_shape(lambda tree: on_grid(tree, there.grid, here.grid), pretrained.params)
        faults = _misshaped(abstract.params, params)
    if faults:
        raise InputError(f"init_from {cfg.init_from}: does not fit: {'; '.join(faults)}; {', or '.join(remedies)}")


def _grid_faults(cfg: Config, there: ModelConfig) -> list[str]:
    """Why weights of one grid cannot start a model of another; empty if they can."""
    here = cfg.model
    # An image model starts a video model: same frame, and the table of frames at zero.
    if there.grid in (here.grid, here.grid[-2:]):
        return []
    faults = [f"grid is {there.grid} there and {here.grid} here"]
    if cfg.init_grid == "interpolate" and len(there.grid[-2:]) == len(here.grid[-2:]):
        frames = there.grid[:-2] in ((), here.grid[:-2])
        return (faults if not frames else []) + (["prefix_wpe is not interpolated"] if there.prefix_slots else [])
    return faults


def _misshaped(wanted: Any, params: Any) -> list[str]:
    """What two trees of (abstract) parameters differ in, without what may be missing."""
    here, there = ({path_name(p): x.shape for p, x in jax.tree.leaves_with_path(tree)} for tree in (wanted, params))
    missing = here.keys() - there.keys() - CONDITIONING
    faults = [f"no {name}" for name in missing if not is_optional(name)]
    faults += [f"{name} is not in this model" for name in there.keys() - here.keys()]
    both = [name for name in here.keys() & there if here[name] != there[name]]
    return sorted(faults + [f"{name} is {there[name]} there and {here[name]} here" for name in both])


def on_grid(params: Any, old: tuple[int, ...], new: tuple[int, ...]) -> Any:
    """Parameters of a model of one grid, for another number of rows and columns; everything else is unchanged.

    Each frame of `wpe` and `wpe_source` is resized bilinearly, with the centres of the pixels as `jax.image` places
    them. There is no antialiasing: a row of these tables is a vector for one place, and the mean over a neighbourhood
    would make the vectors of neighbours alike. Beyond the outermost centres the outermost vector is repeated.
    """
    old, new = old[-2:], new[-2:]
    if old == new:
        return params

    def resized(table_TD: jax.Array) -> jax.Array:
        frames, width = table_TD.shape[0] // math.prod(old), table_TD.shape[1]
        cube = table_TD.reshape(frames, *old, width)
        return jax.image.resize(cube, (frames, *new, width), "bilinear", antialias=False).reshape(-1, width)

    tables = {name: params[name] for name in ("wpe", "wpe_source") if name in params}
    return params | jax.jit(lambda tree: jax.tree.map(resized, tree))(tables)


def init_from_pretrained(state: TrainState, pretrained: Pretrained, grid: tuple[int, ...] | None = None) -> TrainState:
    """The initial state with its parameters, and their average, replaced by checked weights (`check_initial`).

    `grid` is that of the run's model, to which position tables are resized (init_grid); None is that of the weights.
    """
    there = pretrained.config.model.grid
    tree = on_grid(pretrained.params, there, grid or there)
    weights = {path_name(path): x for path, x in jax.tree.leaves_with_path(tree)}
    places = jax.tree.map(lambda x: x.sharding, state.params)
    # A copy, because the train step donates its state and these weights belong to the caller.
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=places)
    params = jax.tree.map_with_path(
        lambda path, x: jax.device_put(weights.get(path_name(path), x), x.sharding), state.params
    )
    return state.replace(params=copy(params), ema=None if state.ema is None else copy(params))  # pyright: ignore
