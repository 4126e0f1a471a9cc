"""Checkpoints of a run, by Orbax: what is in one, whether it is whole, and how it is read back.

A checkpoint has four items, so that a sampler reads no optimizer state: `params`, `ema` (when averaged), `rest`
(step and optimizer state) and `meta` (configuration, palette and checksums, as JSON).

Start order of `igpt train`: the newest whole checkpoint of the workdir, else the weights of train.init_from, else from
scratch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from igpt_jax.config import Config, InputError
from igpt_jax.config_json import from_json
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import path_name
from igpt_jax.parallel.multihost import anywhere, decide
from igpt_jax.training.state import TrainState
from igpt_jax.validation import first_line

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"


class DamagedError(InputError):
    """A checkpoint cannot be read, or is not what was saved."""


_NOT_OF_THE_DISK = (jax.errors.JaxRuntimeError, MemoryError)
"""Errors that say nothing of a checkpoint, but of another process or of the memory."""


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
    checksums: Mapping[str, int]
    """Of every array."""


def describe(
    cfg: Config,
    palette: Palette | None,
    data: Mapping[str, str],
    unwritten: Mapping[str, Any],
    items: Mapping[str, Any],
) -> dict[str, Any]:
    """`Meta` as JSON, with a digest of itself; `items` are the arrays that are saved beside it."""
    centers = None if palette is None else palette.centers.tolist()
    meta = {"config": asdict(cfg), "palette": centers, "data": dict(data), "unwritten": dict(unwritten)}
    meta = json.loads(json.dumps(meta | {"checksums": checksums(items)}))  # tuples become lists, as they will be read
    return meta | {"sha256": _sha256(meta)}


def _sha256(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def checksums(items: Mapping[str, Any]) -> dict[str, int]:
    """Path -> checksum of every array, computed where it lies: the same on every mesh."""
    found = jax.device_get(_checksums(items))
    return {path_name(path): int(x) for path, x in jax.tree.leaves_with_path(found)}


@jax.jit
def _checksums(tree: Any) -> Any:
    """Sum of all 4-byte words, each times an odd number of its own, modulo 2^32: no single changed bit goes unseen."""

    def one(x: jax.Array) -> jax.Array:
        if x.dtype.itemsize != 4:
            raise ValueError(f"checksums are of 4-byte types, not {x.dtype}")
        words = jax.lax.bitcast_convert_type(x, jnp.uint32)
        place, stride = jnp.zeros(x.shape, jnp.uint32), 1
        for dim in reversed(range(x.ndim)):
            place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, dim) * jnp.uint32(stride % 2**32)
            stride *= x.shape[dim]
        return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)

    return jax.tree.map(one, tree)


class _Manager(ocp.CheckpointManager):
    """Orbax's, which does not ask whether the processes are to stop; the loop does.

    Orbax also asks when a save has ended, for a step that is past. JAX would then take that step for where this process
    is, and the processes might agree to stop at one that none of them reaches any more.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpointer:
    """Saves and restores the checkpoints of one workdir."""

    def __init__(self, workdir: Path, cfg: Config, palette: Palette, data: Mapping[str, str]):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=cfg.train.keep, create=True, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._workdir = workdir
        self._manager = _Manager((workdir / CHECKPOINTS).resolve(), options=options)
        self._about = (cfg, palette, data)

    def save(self, state: TrainState, step: int, unwritten: Mapping[str, Any]) -> None:
        """Starts saving; the write goes on in the background."""
        items = _items(state)
        args: dict[str, Any] = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        meta = ocp.args.JsonSave(describe(*self._about, unwritten, items))
        with self._failure_named():
            self._manager.save(step, args=ocp.args.Composite(meta=meta, **args), force=True)

    def check(self) -> None:
        """Raises when the last save has failed by now."""
        with self._failure_named():
            self._manager.check_for_errors()

    @contextmanager
    def _failure_named(self) -> Iterator[None]:
        """A save that fails for want of room or rights is one line; the checkpoints before it are untouched."""
        try:
            yield
        except (InputError, *_NOT_OF_THE_DISK):
            raise
        except Exception as error:
            raise InputError(
                f"workdir {self._workdir}: a checkpoint could not be written ({_why(error)}); make room or "
                "mend its rights, then the same command continues from the last one"
            ) from error

    def restore(self, abstract: TrainState, meta: Meta) -> TrainState:
        """The state of a checkpoint, placed as the shardings of `abstract` say.

        Raises:
          DamagedError: the checkpoint cannot be read, or is not what was saved.
        """
        with reader(self._workdir) as (manager, _):
            return TrainState(**_state(_restore(manager, self._workdir, meta, _items(abstract)), abstract))

    def set_aside_after(self, step: int) -> None:
        """Moves all checkpoints newer than `step` to WORKDIR/damaged, so that those steps can be saved anew."""
        decide(lambda: [_move_away(self._workdir, newer) for newer in self._manager.all_steps() if newer > step])
        self._manager.reload()

    def wait(self) -> None:
        """Returns when everything is on disk."""
        with self._failure_named():
            self._manager.wait_until_finished()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Waits for the last save; its error surfaces here, unless another is on its way."""
        try:
            with self._failure_named():
                self._manager.close()
        except Exception as failure:
            if error is None:
                raise
            log.warning("%s", failure)


def _why(error: Exception) -> str:
    """What the system said, where that is inside a long message of TensorStore's; else how the message begins."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else first_line(error, 150)


def _items(state: TrainState) -> dict[str, Any]:
    """A state as the items of a checkpoint."""
    items = {"params": state.params, "rest": {"step": state.step, "opt_state": state.opt_state}}
    return items if state.ema is None else items | {"ema": state.ema}


def _state(items: Mapping[str, Any], abstract: TrainState) -> dict[str, Any]:
    return dict(params=items["params"], ema=items.get("ema"), **items["rest"])


def _move_away(workdir: Path, step: int) -> None:
    (workdir / DAMAGED).mkdir(exist_ok=True)
    tries = (workdir / DAMAGED / (f"{step}" if i == 0 else f"{step}-{i}") for i in range(10**6))
    (workdir / CHECKPOINTS / str(step)).rename(next(path for path in tries if not path.exists()))


def _restore(manager: ocp.CheckpointManager, workdir: Path, meta: Meta, items: Mapping[str, Any]) -> dict[str, Any]:
    """Items of a checkpoint, of the shapes and in the places of `items`, checked against their checksums."""
    args: dict[str, Any] = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
    with _named(workdir, meta.step):
        found, failure = {}, None
        try:
            restored = manager.restore(meta.step, args=ocp.args.Composite(**args))
            found = {name: restored[name] for name in items}
        except Exception as error:
            failure = error
        if anywhere(failure is not None):  # before the sums, which all processes compute together
            raise failure or ValueError("another process cannot read its part")
        wrong = [name for name, value in checksums(found).items() if value != meta.checksums.get(name)]
        if wrong:
            raise ValueError(f"wrong checksum of {', '.join(wrong[:3])}{' and others' if len(wrong) > 3 else ''}")
    return found


@contextmanager
def _named(workdir: Path, step: int) -> Iterator[None]:
    """Whatever Orbax makes of a damaged checkpoint becomes one line that names it."""
    path = workdir / CHECKPOINTS / str(step)
    try:
        yield
    except _NOT_OF_THE_DISK:
        raise
    except Exception as error:
        why = _why(error)
        if "Permission denied" in why or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)):
            raise InputError(f"workdir {workdir}: checkpoint {step} cannot be read ({why}); mend {path}") from error
        raise DamagedError(
            f"workdir {workdir}: checkpoint {step} is damaged or not one of ours ({why}); move {path} away to go on "
            "from an older one"
        ) from error


@contextmanager
def reader(workdir: Path) -> Iterator[tuple[ocp.CheckpointManager, list[int]]]:
    """A manager that writes nothing, and the steps of all complete checkpoints in ascending order.

    Every process reads for itself and waits for no other: what one cannot read, the others may.
    """
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(me, {me}, f"reader{me}")
    options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=alone)
    with ocp.CheckpointManager((workdir / CHECKPOINTS).resolve(), options=options) as manager:
        yield manager, sorted(manager.all_steps())


def _read_json(manager: ocp.CheckpointManager, workdir: Path, step: int) -> dict[str, Any]:
    with _named(workdir, step):
        meta = dict(manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"])
        if meta.pop("sha256", None) != _sha256(meta):
            raise ValueError("wrong checksum of its description")
        _meta(step, meta)
        return meta


def _meta(step: int, meta: Mapping[str, Any]) -> Meta:
    config = from_json(Config, json.dumps(meta["config"]), "its configuration")
    palette = None if meta["palette"] is None else Palette(np.asarray(meta["palette"], np.float32))
    return Meta(step, config, palette, meta["data"], meta["unwritten"], meta["checksums"])


def read_item(manager: ocp.CheckpointManager, workdir: Path, meta: Meta, name: str, abstract: Any) -> Any:
    """One item of a checkpoint, of the shapes and in the places of `abstract`.

    Raises:
      DamagedError: it cannot be read, or is not what was saved.
    """
    return _restore(manager, workdir, meta, {name: abstract})[name]


def described(workdir: Path, only: int | None = None) -> list[Meta]:
    """What the complete checkpoints, or that of one step, say of themselves, newest first. Writes nothing.

    Those that cannot say it are named in the log. Process 0 reads them for all.

    Raises:
      DamagedError: there are checkpoints, and none can say it.
      InputError: there is none of that step.
    """
    return [_meta(step, found) for step, found in decide(lambda: _described(workdir, only))]


def _described(workdir: Path, only: int | None) -> list[tuple[int, dict[str, Any]]]:
    if not (workdir / CHECKPOINTS).is_dir():
        return []
    found, last = [], None
    with reader(workdir) as (manager, steps):
        if only is not None and only not in steps:
            raise InputError(f"workdir {workdir}: no checkpoint at step {only}; there are {', '.join(map(str, steps))}")
        for step in reversed(steps) if only is None else [only]:
            try:
                found.append((step, _read_json(manager, workdir, step)))
            except DamagedError as error:
                log.warning("%s", error)
                last = last or error
    if last is not None and not found:
        raise last
    return found
