"""Checkpoints of a run, by Orbax: what is in one, when a workdir may be continued, and how it is read back.

A checkpoint has four items, so that a sampler reads no optimizer state: `params`, `ema` (when averaged), `rest`
(step and optimizer state) and `meta` (configuration and palette, as JSON).

Start order of `igpt train`: the newest checkpoint of the workdir, else the weights of train.init_from, else from
scratch.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from igpt_jax.config import Config, InputError
from igpt_jax.config_json import differences, from_json, to_json
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette, replace_file
from igpt_jax.parallel.mesh import path_name
from igpt_jax.training.state import TrainState

CHECKPOINTS = "checkpoints"


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


def check_workdir(workdir: Path, cfg: Config) -> None:
    """Whether this run may live there: in a new or empty directory, or where the very same run was begun.

    Raises:
      InputError: it holds a run of another configuration, other files, or is no directory.
    """
    before = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"workdir {workdir}: is a file; name a directory")
    if before.exists():
        check_same_run(from_json(Config, before.read_text(), str(before)), cfg, workdir)
    elif workdir.is_dir() and any(p.name != ".lock" for p in workdir.iterdir()):
        raise InputError(f"workdir {workdir}: holds other files and no run; name a new or empty directory")


@contextmanager
def claim_workdir(workdir: Path, cfg: Config) -> Iterator[None]:
    """Makes the workdir or continues in it, and keeps other processes out of it meanwhile.

    Raises:
      InputError: another process trains there now, it cannot be written, or as `check_workdir` does.
    """
    check_workdir(workdir, cfg)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "a")  # noqa: SIM115 (held as long as the run)
    except OSError as error:
        raise InputError(f"workdir {workdir}: {error.strerror}; name a directory that can be written") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"workdir {workdir}: another process trains there now; name another directory") from None
        check_workdir(workdir, cfg)  # again, now that nobody else can write there
        with replace_file(workdir / "config.json") as file:
            file.write(to_json(cfg).encode())
        yield


def check_same_run(old: Config, new: Config, workdir: Path) -> None:
    """Raises InputError naming every key that would make this another run than the one in the workdir."""
    changed = [f"{key} is {a!r} there and {b!r} here" for key, (a, b) in differences(old, new).items()]
    if changed:
        raise InputError(
            f"workdir {workdir}: holds another run ({'; '.join(changed)}); give the same settings to continue it, "
            "or another --workdir"
        )


@dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself, beside its arrays."""

    step: int
    config: Config
    palette: Palette | None
    data: Mapping[str, str]
    """Digests of the images that the run learns from and is measured on; none in weights brought from elsewhere."""
    unwritten: Mapping[str, Any]
    """`LateMetrics.unwritten` at that step."""


def _describe(cfg: Config, palette: Palette | None, data: Mapping[str, str]) -> dict[str, Any]:
    """The part of `Meta` that is the same in every checkpoint of a workdir, as JSON."""
    centers = None if palette is None else palette.centers.tolist()
    return {"config": asdict(cfg), "palette": centers, "data": dict(data)}


class Checkpointer:
    """Saves and restores the checkpoints of one workdir."""

    def __init__(self, workdir: Path, cfg: Config, palette: Palette, data: Mapping[str, str]):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=cfg.train.keep, create=True, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._workdir = workdir
        self._manager = ocp.CheckpointManager((workdir / CHECKPOINTS).resolve(), options=options)
        self._meta = _describe(cfg, palette, data)

    def save(self, state: TrainState, step: int, unwritten: Mapping[str, Any]) -> None:
        """Starts saving; the write goes on in the background. An error of the last save surfaces here."""
        items = {"params": state.params, "rest": {"step": state.step, "opt_state": state.opt_state}}
        if state.ema is not None:
            items["ema"] = state.ema
        args: dict[str, Any] = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        meta = ocp.args.JsonSave(self._meta | {"unwritten": dict(unwritten)})
        self._manager.save(step, args=ocp.args.Composite(meta=meta, **args), force=True)

    def restore(self, abstract: TrainState, step: int) -> TrainState:
        """The state at `step`, placed as the shardings of `abstract` say.

        Raises:
          InputError: the checkpoint is damaged.
        """
        items = {"params": abstract.params, "rest": {"step": abstract.step, "opt_state": abstract.opt_state}}
        if abstract.ema is not None:
            items["ema"] = abstract.ema
        args: dict[str, Any] = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
        with _named(self._workdir, step):
            found = self._manager.restore(step, args=ocp.args.Composite(**args))
        return TrainState(
            step=found["rest"]["step"],
            params=found["params"],
            opt_state=found["rest"]["opt_state"],
            ema=found["ema"] if abstract.ema is not None else None,
        )

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save; its error surfaces here."""
        self._manager.close()


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
        meta = ocp.args.JsonSave(_describe(cfg, found.palette, {}) | {"unwritten": {}})
        args = ocp.args.Composite(params=ocp.args.StandardSave(found.params), meta=meta)
        with ocp.CheckpointManager((workdir / CHECKPOINTS).resolve()) as manager:
            manager.save(found.step or 0, args=args, force=True)


@contextmanager
def _named(workdir: Path, step: int) -> Iterator[None]:
    """Whatever Orbax makes of a damaged checkpoint becomes one line that names it."""
    try:
        yield
    except Exception as error:
        why = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        raise InputError(
            f"workdir {workdir}: checkpoint {step} is damaged or not one of ours ({why}); move "
            f"{workdir / CHECKPOINTS / str(step)} away to go on from an older one"
        ) from error


@contextmanager
def _reader(workdir: Path) -> Iterator[tuple[ocp.CheckpointManager, list[int]]]:
    """A manager that writes nothing, and the steps of all complete checkpoints in ascending order."""
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager((workdir / CHECKPOINTS).resolve(), options=options) as manager:
        yield manager, sorted(manager.all_steps())


def _read_meta(manager: ocp.CheckpointManager, workdir: Path, step: int) -> Meta:
    with _named(workdir, step):
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        config = from_json(Config, json.dumps(meta["config"]), "its configuration")
        palette = None if meta["palette"] is None else Palette(np.asarray(meta["palette"], np.float32))
        return Meta(step, config, palette, meta["data"], meta["unwritten"])


def newest(workdir: Path) -> Meta | None:
    """What the newest complete checkpoint says; None where there is none. Writes nothing.

    Raises:
      InputError: it is damaged.
    """
    if not (workdir / CHECKPOINTS).is_dir():
        return None
    with _reader(workdir) as (manager, steps):
        return _read_meta(manager, workdir, steps[-1]) if steps else None


def load_workdir(workdir: str | Path, step: int | None = None) -> Pretrained:
    """Reads a run's model: the averaged weights where the run kept them, else the plain ones.

    Args:
      workdir: as given to `igpt train`.
      step: which checkpoint; by default the newest.

    Raises:
      InputError: no such directory, no checkpoint, not at that step, or a damaged one.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise InputError(f"workdir {workdir}: no such directory; `igpt train` makes one")
    if not (workdir / CHECKPOINTS).is_dir():
        raise InputError(f"workdir {workdir}: holds no checkpoints; `igpt train` makes them")
    with _reader(workdir) as (manager, steps):
        if not steps:
            raise InputError(f"workdir {workdir}: holds no complete checkpoint yet")
        if step is not None and step not in steps:
            raise InputError(f"workdir {workdir}: no checkpoint at step {step}; there are {', '.join(map(str, steps))}")
        meta = _read_meta(manager, workdir, steps[-1] if step is None else step)
        model = ImageGPT(meta.config.model)
        item = "ema" if meta.config.optim.ema_decay is not None else "params"
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), abstract_params(model))
        with _named(workdir, meta.step):
            args = ocp.args.Composite(**{item: ocp.args.StandardRestore(target)})
            params = manager.restore(meta.step, args=args)[item]
    return Pretrained(model, params, meta.palette, meta.config, meta.step, meta.data)


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
    tokens = jax.ShapeDtypeStruct((1, model.cfg.n_ctx), np.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
