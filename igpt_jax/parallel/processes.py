"""Several processes as one run: start-up, agreement, and barriers that say who is missing.

Process 0 decides and writes; every process computes. With a single process everything here is free.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
from jax._src import clusters, distributed, xla_bridge  # what of these is used has no public name

from igpt_jax.errors import InputError, first_line
from igpt_jax.parallel import joining
from igpt_jax.parallel.joining import HEARTBEAT_S

PATIENCE_S = 3600.0
"""How long processes wait for what one of them does alone. JAX notices a dead one after HEARTBEAT_S."""

LINGER_S = 5
"""How long process 0, which runs JAX's coordination service, outlives its own part if a process is lost."""

_LOCAL_FAILURES = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")
"""How the messages of failures begin that no other process causes."""


class LostProcessError(RuntimeError):
    """Other processes of the run are gone, or did not come to a barrier in time."""

    def __init__(self, message: str, lost: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.lost = lost  # which ones, ascending; empty if that is not known


class InputErrorElsewhere(InputError):
    """Another process reports an InputError; this one only ends with it."""


class FailedElsewhereError(RuntimeError):
    """Process 0 failed at what it does for all, and reports it."""


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    join_timeout_s: float = 300,
) -> None:
    """Joins the processes of this run. Call it before anything that asks JAX for devices.

    Without arguments, JAX looks for Slurm, Open MPI, Kubernetes and Cloud TPU. Without any of them, the run has one
    process. With them, `coordinator` is the HOST:PORT that process 0 opens. If some have not come after
    `join_timeout_s`, NotJoinedError says so, and the program must end.
    """
    options = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    given = [value for value in options.values() if value is not None]
    missing = [name for name, value in options.items() if value is None]
    if given and missing:
        raise InputError(f"{', '.join(missing)}: missing; give all of {', '.join(options)} or none")
    members = _checked(coordinator, num_processes, process_id) if given else None
    if xla_bridge.backends_are_initialized() or jax.distributed.is_initialized():
        if members is None:
            return  # a program has started JAX already and joins its processes itself, if it has several
        raise InputError("processes cannot be joined: this program has started JAX already")
    try:
        if members is None:
            detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
            address = os.environ.get("JAX_COORDINATOR_ADDRESS")
            coordinator, num_processes, process_id, _ = detect(address, None, None, None, None, round(join_timeout_s))
            if coordinator is None:
                return
            members = _checked(coordinator, num_processes, process_id)
        joining.join(*members, join_timeout_s)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"processes cannot be joined: {first_line(error, 300)}; is {coordinator} reachable?") from None


def _checked(coordinator: str | None, num_processes: int | None, process_id: int | None) -> tuple[str, int, int]:
    """The arguments, if they can be right."""
    if coordinator is None or num_processes is None or process_id is None:  # JAX_COORDINATOR_ADDRESS without a cluster
        raise InputError(f"processes cannot be joined at {coordinator}: num_processes or process_id is missing")
    joining.parse_coordinator(coordinator)
    if num_processes < 1:
        raise InputError(f"num_processes {num_processes}: must be at least 1")
    if not 0 <= process_id < num_processes:
        raise InputError(f"process_id {process_id}: must be from 0 to {num_processes - 1} (num_processes - 1)")
    return coordinator, num_processes, process_id


def is_multiprocess() -> bool:
    """Whether this is one of several processes. It does not open JAX's devices, nor wait until all have joined."""
    return jax.distributed.is_initialized() and distributed.global_state.num_processes > 1


def process_label() -> str:
    """How a line on stderr begins: 'igpt', with the process's number if there are several."""
    return f"igpt[{distributed.global_state.process_id}]" if is_multiprocess() else "igpt"


def is_process_zero() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def on_process_zero(function: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Calls a function on process 0. All processes get its result as JSON keeps it, or its error.

    The others wait for it without a collective, which would give up sooner.

    Raises:
      InputError: process 0 raised it.
      FailedElsewhereError: process 0 raised another error (there, that error itself).
      LostProcessError: a process has not come after `patience_s`.
    """
    error, message = None, ""
    if is_process_zero():
        try:
            message = json.dumps({"result": function()})
        except Exception as raised:
            error = raised
            message = json.dumps({"error": str(raised), "input": isinstance(raised, InputError)})
    answer = json.loads(_gather("the part of process 0", message, patience_s)[0])
    if error is not None:
        raise error
    if "error" in answer:
        raise (InputErrorElsewhere if answer["input"] else FailedElsewhereError)(answer["error"])
    return answer["result"]


@contextmanager
def raise_on_all() -> Iterator[None]:
    """If any process raises InputError here, all do; the first reports it, the others InputErrorElsewhere."""
    error: InputError | None = None
    try:
        yield
    except InputError as raised:
        error = raised
    failed = _those_where(error is not None)
    if failed and failed[0] != jax.process_index():
        raise InputErrorElsewhere(f"process {failed[0]} reports the error") from error
    if error is not None:
        raise error


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    return bool(_those_where(flag))


def require_same(what: str, value: str) -> None:
    """Raises InputError on all processes if some have another value than process 0. It names them."""
    others = _those_where(value != on_process_zero(lambda: value))
    if others:
        kind = InputError if is_process_zero() else InputErrorElsewhere
        raise kind(f"{what}: not the same on process 0 and on {_names(others)}")


def _those_where(flag: bool) -> list[int]:
    """The processes that have the flag set, ascending."""
    return [i for i, value in enumerate(_gather("agreement", str(flag), PATIENCE_S)) if value == "True"]


@contextmanager
def naming_lost_processes(patience_s: float = HEARTBEAT_S - 10) -> Iterator[None]:
    """If a computation fails because another process is gone, says which one.

    A broken connection shows at once; whose it was shows when that process misses a barrier. The barrier times out
    before JAX's heartbeat does, which would abort this process. A process that still waits for the lost one in a
    collective misses the barrier too, and is named with it.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = first_line(error, 200)
        if jax.process_count() == 1 or reason.startswith(_LOCAL_FAILURES):
            raise
        try:
            barrier("after a failure", patience_s)
        except LostProcessError as missing:
            if missing.lost:
                again = "the same command, started again on all of them, continues from the last checkpoint"
                raise LostProcessError(
                    f"lost process {_names(missing.lost)} ({reason}); {again}", missing.lost
                ) from error
        raise  # all are there, if late: the failure has another cause


def barrier(where: str, patience_s: float) -> None:
    """Waits until all processes have come here. Raises LostProcessError if some have not come in time."""
    _gather(where, "", patience_s)


def _gather(where: str, value: str, patience_s: float) -> list[str]:
    """The values of all processes, by JAX's coordination service. Raises LostProcessError as `barrier`."""
    if jax.process_count() == 1:
        return [value]
    service: Any = distributed.global_state.client
    _calls[where] += 1
    key = f"igpt/{where}/{_calls[where]}"

    def arrived() -> dict[int, str]:
        return {int(name.rpartition("/")[2]): value for name, value in service.key_value_dir_get(f"{key}/")}

    try:
        service.key_value_set(f"{key}/{jax.process_index()}", value)
        service.wait_at_barrier(key, round(1000 * patience_s))
        return [value for _, value in sorted(arrived().items())]
    except Exception as error:  # its class differs between versions
        try:
            lost = sorted(set(range(jax.process_count())) - arrived().keys())
        except Exception:
            lost = [0]  # it runs the service
        raise LostProcessError(f"lost process {_names(lost)}, waiting for it ({where})", lost) from error


_calls: collections.Counter[str] = collections.Counter()  # of `_gather`, by place: JAX's keys and barriers serve once


def _names(some: Iterable[int]) -> str:
    return f"{', '.join(map(str, some)) or '?'} of {jax.process_count()}"


def exit_if_others_continue(code: int, patience_s: float = 10) -> None:
    """Call it before a process ends with an error. If the others do not end too, ends this one, and they notice.

    It would otherwise wait for them in JAX's shutdown barrier while they wait for it in a collective.
    """
    if not is_multiprocess():
        return
    try:
        barrier("exit", patience_s)
    except LostProcessError:
        sys.stdout.flush()
        sys.stderr.flush()
        exit_now(code)


def exit_now(code: int) -> NoReturn:
    """Exits without JAX's shutdown barrier, which would deadlock.

    Process 0 waits a moment, because JAX aborts the others once it is gone, and they may still be writing messages.
    Nothing is flushed, as another thread may hang in a flush.
    """
    if is_multiprocess() and distributed.global_state.process_id == 0:
        time.sleep(LINGER_S)
    os._exit(code)
