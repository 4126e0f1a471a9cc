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
import numpy as np
from jax._src import clusters, distributed, xla_bridge  # what of these is used has no public name
from jax.experimental import multihost_utils

from igpt_jax.errors import InputError, first_line
from igpt_jax.parallel import joining

HEARTBEAT_S = 30
"""JAX takes a process that is silent for this long for dead, and ends the others."""

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
    process. With them, `coordinator` is the HOST:PORT that process 0 opens. A process that waits for others logs a
    warning every 15 s, and waits for `join_timeout_s` seconds.

    Raises:
      InputError: some of the arguments are missing or out of range, processes are missing when the time is over (the
        message names them), or they cannot reach each other.
    """
    options = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [name for name, value in options.items() if value is None]
    if missing and len(missing) < len(options):
        raise InputError(f"{', '.join(missing)}: missing; give all of {', '.join(options)} or none")
    members = None if coordinator is None else _checked(coordinator, num_processes, process_id)
    if xla_bridge.backends_are_initialized() or jax.distributed.is_initialized():
        if members is None:
            return  # a program has started JAX already and joins its processes itself, if it has several
        raise InputError("processes cannot be joined: this program has started JAX already")
    try:
        members = members or _from_cluster(join_timeout_s)
        if members is None:
            return
        joining.meet(*members, join_timeout_s)
        jax.distributed.initialize(
            *members, initialization_timeout=joining.HANDOVER_S, heartbeat_timeout_seconds=HEARTBEAT_S
        )
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        reason, where = first_line(error, 300), members[0] if members else "process 0"
        raise InputError(f"processes cannot be joined: {reason}; is {where} reachable?") from None


def _from_cluster(timeout_s: float) -> tuple[str, int, int] | None:
    """HOST:PORT of process 0, the number of processes and this one's, as JAX finds them; None without a cluster."""
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    coordinator, num_processes, process_id, _ = detect(address, None, None, None, None, round(timeout_s))
    return None if coordinator is None else _checked(coordinator, num_processes, process_id)


def _checked(coordinator: str, num_processes: int | None, process_id: int | None) -> tuple[str, int, int]:
    """The arguments, if they can be right."""
    joining.parse_coordinator(coordinator)
    if num_processes is None or process_id is None:  # JAX_COORDINATOR_ADDRESS is set, but there is no cluster
        raise InputError(f"processes cannot be joined at {coordinator}: --num-processes, --process-id: missing")
    if num_processes < 1:
        raise InputError(f"--num-processes {num_processes}: must be at least 1")
    if not 0 <= process_id < num_processes:
        numbers = f"from 0 to {num_processes - 1}, as --num-processes is {num_processes}"
        raise InputError(f"--process-id {process_id}: must be {numbers}")
    return coordinator, num_processes, process_id


def is_multiprocess() -> bool:
    """Whether this is one of several processes. It does not open JAX's devices."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def process_label() -> str:
    """How a line on stderr begins: 'igpt', with the process's number if there are several."""
    return f"igpt[{jax.process_index()}]" if is_multiprocess() else "igpt"


def is_process_zero() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


ANSWER_S = 24 * 3600.0
"""How long processes wait for what process 0 computes alone; if it is lost, its heartbeats end them sooner."""


def on_process_zero(function: Callable[[], Any]) -> Any:
    """Calls a function on process 0, for as long as it takes. All processes get its result, which must be JSON, or its
    error.

    Raises:
      InputError: process 0 raised it.
      FailedElsewhereError: process 0 raised another error (there, that error itself).
    """
    if jax.process_count() == 1:
        result = function()
        json.dumps(result)  # raises TypeError here, too, for what could not be sent
        return result
    error, message = None, b""
    if is_process_zero():
        try:
            message = json.dumps({"result": function()}).encode()
        except Exception as raised:
            error = raised
            message = json.dumps({"error": str(raised), "input": isinstance(raised, InputError)}).encode()
    barrier("process 0 has an answer", ANSWER_S)  # a collective would not wait that long
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    padded = np.frombuffer(message.ljust(size), np.uint8)
    answer = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())
    if error is not None:
        raise error
    if "error" in answer:
        raise (InputErrorElsewhere if answer["input"] else FailedElsewhereError)(answer["error"])
    return answer["result"]


@contextmanager
def raise_on_all() -> Iterator[None]:
    """If any process raises InputError here, all do; the first reports it.

    Raises:
      InputError: this process raised it, or another did.
    """
    error: InputError | None = None
    try:
        yield
    except InputError as raised:
        error = raised
    failed = np.flatnonzero(_on_each(error is not None))
    if failed.size and failed[0] != jax.process_index():
        raise InputErrorElsewhere(f"process {failed[0]} reports the error") from error
    if error is not None:
        raise error


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    return bool(_on_each(flag).any())


def require_same(what: str, value: str) -> None:
    """Raises InputError on all processes if some have another value than process 0. It names them."""
    others = np.flatnonzero(_on_each(value != on_process_zero(lambda: value)))
    if others.size:
        kind = InputError if is_process_zero() else InputErrorElsewhere
        raise kind(f"{what}: not the same on process 0 and on {_names(others)}")


def _on_each(flag: bool) -> np.ndarray:
    """bool [P]: the flag of every process."""
    if jax.process_count() == 1:
        return np.array([flag])
    return np.asarray(multihost_utils.process_allgather(np.bool_(flag)))


@contextmanager
def naming_lost_processes(patience_s: float = HEARTBEAT_S - 10) -> Iterator[None]:
    """If a computation fails because another process is gone, says which one.

    A broken connection shows at once; whose it was shows when that process misses a barrier. The barrier times out
    before JAX's heartbeat does, which would abort this process. A process that still waits for the lost one in a
    collective misses the barrier too, and is named with it.

    Raises:
      LostProcessError: processes are gone.
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
    """Waits until all processes have come here.

    Raises:
      LostProcessError: some have not come in time.
    """
    if jax.process_count() == 1:
        return
    service: Any = distributed.global_state.client
    _calls[where] += 1
    key = f"igpt/{where}/{_calls[where]}"
    try:
        service.key_value_set(f"{key}/{jax.process_index()}", "")
        service.wait_at_barrier(key, round(1000 * patience_s))
    except Exception as error:  # its class differs between versions
        try:
            arrived = {int(name.rpartition("/")[2]) for name, _ in service.key_value_dir_get(f"{key}/")}
            lost = sorted(set(range(jax.process_count())) - arrived)
        except Exception:
            lost = [0]  # it runs the service
        raise LostProcessError(f"lost process {_names(lost)}, waiting for it ({where})", lost) from error


def _names(some: Iterable[int]) -> str:
    return f"{', '.join(map(str, some)) or '?'} of {jax.process_count()}"


_calls: collections.Counter[str] = collections.Counter()  # of each barrier


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
    if is_multiprocess() and is_process_zero():
        time.sleep(LINGER_S)
    os._exit(code)
