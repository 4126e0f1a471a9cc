"""Checkpoints of a run, by Orbax: what is in one, whether it is intact, and how it is read back.

A checkpoint has four items, so that a sampler reads no optimizer state: `params`, `ema` (if the run averages), `rest`
(step and optimizer state) and `meta` (`CheckpointMeta` as JSON).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from igpt_jax.config import Config
from igpt_jax.config_json import from_json
from igpt_jax.errors import InputError, first_line
from igpt_jax.palette import Palette
from igpt_jax.parallel.processes import any_process, on_process_zero
from igpt_jax.training.checksums import checksums
from igpt_jax.training.step import TrainState

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"


class DamagedError(InputError):
    """A checkpoint cannot be read, or is not what was saved."""


class OtherVersionError(InputError):
    """A checkpoint is intact, and its description has not the fields of this version."""


_NOT_OF_THE_DISK = (jax.errors.JaxRuntimeError, MemoryError)
"""Errors that are not about the checkpoint, but about another process or memory."""


@dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint stores beside its arrays."""

    step: int
    config: Config
    palette: Palette | None
    data: Mapping[str, str]
    """Digests of the images that the run trains and is evaluated on; empty for weights imported from elsewhere."""
    loop: Mapping[str, Any]
    """`LoopState` at that step."""
    checksums: Mapping[str, int]
    """Of every array."""
    class_names: tuple[str, ...] = ()
    """Of the run's images: name i belongs to label i. Empty for none, and in checkpoints older than this field."""
    class_counts: tuple[int, ...] = ()
    """How many training images each class has. Empty where that is not known."""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """Custom parts that the run was given as objects, by name (`objectives.identity`)."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with a digest of themselves."""
        fields = asdict(replace(self, palette=None))
        fields["palette"] = None if self.palette is None else self.palette.centers.tolist()
        del fields["step"]
        fields = json.loads(json.dumps(fields))  # tuples become lists
        return fields | {"sha256": _sha256(fields)}

    @classmethod
    def from_json(cls, step: int, stored: Mapping[str, Any]) -> CheckpointMeta:
        """The inverse. ValueError for a wrong digest; OtherVersionError if that is right, and the fields are not."""
        fields = dict(stored)
        if fields.pop("sha256", None) != _sha256(fields):
            raise ValueError("wrong checksum of its description")
        try:
            config = from_json(Config, json.dumps(fields["config"]), "its configuration")
            palette = None if fields["palette"] is None else Palette(np.asarray(fields["palette"], np.float32))
            classes = tuple(fields["class_names"]), tuple(fields["class_counts"])
            kept = fields["data"], fields["loop"], fields["checksums"]
            return cls(step, config, palette, *kept, *classes, fields["extensions"])
        except (InputError, KeyError) as error:
            raise OtherVersionError(f"no {error}" if isinstance(error, KeyError) else str(error)) from None


def _sha256(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which does not ask whether the processes are to stop; the loop does.

    Orbax also asks when a save has ended, for a step that is past. JAX would then take that step for the current one,
    and the processes might agree to stop at a step that none of them reaches any more.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpointer:
    """Saves and restores the checkpoints of one workdir."""

    def __init__(self, workdir: Path, run: CheckpointMeta):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=run.config.train.keep,
            create=True,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._workdir = workdir
        self._manager = _Manager((workdir / CHECKPOINTS).resolve(), options=options)
        self._run = run

    def save(self, state: TrainState, step: int, loop: Mapping[str, Any]) -> None:
        """Starts to save; the files are written in the background."""
        items = _items(state)
        args: dict[str, Any] = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        meta = replace(self._run, step=step, loop=loop, checksums=checksums(items)).to_json()
        with self._save_errors_named():
            composite = ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args)
            self._manager.save(step, args=composite, force=True)

    def check(self) -> None:
        """Raises if the last save has failed by now."""
        with self._save_errors_named():
            self._manager.check_for_errors()

    @contextmanager
    def _save_errors_named(self) -> Iterator[None]:
        """Turns a save that fails for lack of space or rights into one line. Earlier checkpoints stay as they are."""
        try:
            yield
        except (InputError, *_NOT_OF_THE_DISK):
            raise
        except Exception as error:
            raise InputError(
                f"workdir {self._workdir}: a checkpoint could not be written ({_cause(error)}); make room or "
                "mend its rights, then the same command continues from the last one"
            ) from error

    def restore(self, abstract: TrainState, checkpoints: Sequence[CheckpointMeta]) -> tuple[TrainState, CheckpointMeta]:
        """The state of the first of these checkpoints that is intact, placed as the shardings of `abstract` say.

        Damaged ones before it are named in the log and moved to WORKDIR/damaged, so their steps can be saved again.

        Raises:
          DamagedError: none is intact; nothing has been moved.
        """
        for i, meta in enumerate(checkpoints):
            try:
                with reader(self._workdir) as manager:
                    items = _read_items(manager, self._workdir, meta, _items(abstract))
            except DamagedError as error:
                if i == len(checkpoints) - 1:
                    raise
                log.warning("%s", error)
            else:
                on_process_zero(lambda last=meta.step: self._set_aside_after(last))
                self._manager.reload()
                return TrainState(params=items["params"], ema=items.get("ema"), **items["rest"]), meta
        raise ValueError("no checkpoints to restore")

    def _set_aside_after(self, step: int) -> None:
        for newer in self._manager.all_steps():
            if newer > step:
                (self._workdir / DAMAGED).mkdir(exist_ok=True)
                names = (self._workdir / DAMAGED / (f"{newer}" if i == 0 else f"{newer}-{i}") for i in range(10**6))
                free = next(path for path in names if not path.exists())
                (self._workdir / CHECKPOINTS / str(newer)).rename(free)

    def wait(self) -> None:
        """Returns when everything is on disk."""
        with self._save_errors_named():
            self._manager.wait_until_finished()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Waits for the last save. Its error is raised here, unless another error is being raised already."""
        try:
            with self._save_errors_named():
                self._manager.close()
        except Exception as failure:
            if error is None:
                raise
            log.warning("%s", failure)


def save_weights(workdir: Path, meta: CheckpointMeta, params: Any, only: bool = False) -> None:
    """Writes a checkpoint of weights alone. `only` then deletes the others there, and replaces one of the same step."""
    stored = replace(meta, checksums=checksums({"params": params})).to_json()
    args = ocp.args.Composite(meta=ocp.args.JsonSave(stored), params=ocp.args.StandardSave(params))
    options = ocp.CheckpointManagerOptions(create=True)
    with ocp.CheckpointManager((workdir / CHECKPOINTS).resolve(), options=options) as manager:
        before = manager.all_steps() if only else ()
        if meta.step in before:
            manager.delete(meta.step)
        manager.save(meta.step, args=args, force=True)
        manager.wait_until_finished()
        for step in set(before) - {meta.step}:  # max_to_keep would keep the highest step, not the newest save
            manager.delete(step)


def read_weights(workdir: Path, meta: CheckpointMeta, abstract: Any) -> Any:
    """The weights of a checkpoint, averaged if the run kept an average, placed as `abstract` says."""
    item = "params" if meta.config.optim.ema_decay is None else "ema"
    with reader(workdir) as manager:
        return _read_items(manager, workdir, meta, {item: abstract})[item]


def list_checkpoints(workdir: Path, only: int | None = None) -> list[CheckpointMeta]:
    """Metadata of all complete checkpoints, or of that of one step, newest first. Process 0 reads them for all.

    Those whose metadata cannot be read are named in the log; DamagedError if it is that of all.
    """
    stored = on_process_zero(lambda: _read_all_meta(workdir, only))
    return [CheckpointMeta.from_json(step, fields) for step, fields in stored]


def _read_all_meta(workdir: Path, only: int | None) -> list[tuple[int, dict[str, Any]]]:
    if not (workdir / CHECKPOINTS).is_dir():
        return []
    readable: list[tuple[int, dict[str, Any]]] = []
    failure = None
    with reader(workdir) as manager:
        steps = sorted(manager.all_steps())
        if only is not None and only not in steps:
            raise InputError(f"workdir {workdir}: no checkpoint at step {only}; there are {', '.join(map(str, steps))}")
        for step in reversed(steps) if only is None else [only]:
            try:
                with _damage_named(workdir, step):
                    fields = dict(manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"])
                    CheckpointMeta.from_json(step, fields)
                readable.append((step, fields))
            except DamagedError as error:
                log.warning("%s", error)
                failure = failure or error
    if failure is not None and not readable:
        raise failure
    return readable


@contextmanager
def reader(workdir: Path) -> Iterator[ocp.CheckpointManager]:
    """A manager that writes nothing.

    Every process reads by itself and waits for no other: what one cannot read, the others may.
    """
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(index, {index}, f"reader{index}")
    options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=alone)
    with ocp.CheckpointManager((workdir / CHECKPOINTS).resolve(), options=options) as manager:
        yield manager


def _items(state: TrainState) -> dict[str, Any]:
    """A state as the items of a checkpoint."""
    items = {"params": state.params, "rest": {"step": state.step, "opt_state": state.opt_state}}
    return items if state.ema is None else items | {"ema": state.ema}


def _read_items(
    manager: ocp.CheckpointManager, workdir: Path, meta: CheckpointMeta, abstract: Mapping[str, Any]
) -> dict[str, Any]:
    """Items of a checkpoint with the shapes and places of `abstract`, compared with their checksums."""
    args: dict[str, Any] = {name: ocp.args.StandardRestore(item) for name, item in abstract.items()}
    with _damage_named(workdir, meta.step):
        items, failure = {}, None
        try:
            restored = manager.restore(meta.step, args=ocp.args.Composite(**args))
            items = {name: restored[name] for name in abstract}
        except Exception as error:
            failure = error
        if any_process(failure is not None):  # before the sums, which all processes compute together
            raise failure or ValueError("another process cannot read its part")
        wrong = [name for name, value in checksums(items).items() if value != meta.checksums.get(name)]
        if wrong:
            raise ValueError(f"wrong checksum of {', '.join(wrong[:3])}{' and others' if len(wrong) > 3 else ''}")
    return items


@contextmanager
def _damage_named(workdir: Path, step: int) -> Iterator[None]:
    """Turns whatever Orbax raises on a damaged checkpoint into one line that names the checkpoint."""
    path = workdir / CHECKPOINTS / str(step)
    try:
        yield
    except _NOT_OF_THE_DISK:
        raise
    except OtherVersionError as error:
        raise InputError(
            f"workdir {workdir}: checkpoint {step} is of another version of igpt_jax ({error}); use that version"
        ) from error
    except Exception as error:
        cause = _cause(error)
        if "Permission denied" in cause or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)):
            raise InputError(f"workdir {workdir}: checkpoint {step} cannot be read ({cause}); mend {path}") from error
        raise DamagedError(
            f"workdir {workdir}: checkpoint {step} is damaged or not one of ours ({cause}); move {path} away to go on "
            "from an older one"
        ) from error


def _cause(error: Exception) -> str:
    """The system's error, if a long message of TensorStore contains one; else the beginning of the message."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error, 150)
