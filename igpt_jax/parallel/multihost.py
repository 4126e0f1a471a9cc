"""Several processes as one run: start-up, agreement, barriers that say who is missing. All of it is JAX's own runtime.

Process 0 decides and writes; every process computes. With a single process everything here is free.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from igpt_jax.validation import InputError, first_line

HEARTBEAT_S = 30
"""A process that has been silent for so long is taken for dead, and the others end."""

LINGER_S = 5
"""How long process 0, which answers for JAX's runtime, outlives its own part in a run that has lost a process."""

_OF_THIS_PROCESS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")
"""What the messages of failures begin with that are no other process's."""


class LostProcessError(RuntimeError):
    """Another process of the run is gone."""


class InputErrorElsewhere(InputError):
    """An InputError that another process reports; this one only ends with it."""


class FailedElsewhereError(RuntimeError):
    """Process 0 failed at what it does for all, and reports it."""


def start(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the processes of this run. Call it before anything that asks JAX for devices.

    Without arguments, JAX looks for Slurm, Open MPI, Kubernetes and Cloud TPU; where there is none of them, the run has
    one process.

    Args:
      coordinator: HOST:PORT of process 0, which must be able to open it.
      num_processes, process_id: how many there are, and which this is.

    Raises:
      InputError: some of the arguments are missing, or the processes do not find each other.
    """
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise InputError(f"{', '.join(missing)}: missing; the three that join processes belong together")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_S)
    except ValueError as error:
        if coordinator is not None or "coordinator_address" not in str(error):
            raise InputError(f"processes cannot be joined: {error}") from None
    except RuntimeError as error:
        if "must be called before" in str(error) and not given["--coordinator"]:
            return  # JAX is running already, in a program that has made its own arrangements
        raise InputError(
            f"processes cannot be joined: {first_line(error, 300)}; is {coordinator or 'process 0'} reachable?"
        ) from None


def several() -> bool:
    """Whether this is one of several processes; asks JAX for nothing that would open its devices."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def who() -> str:
    """What a line on stderr begins with: 'igpt', and which process it is where there are several."""
    return f"igpt[{jax.process_index()}]" if several() else "igpt"


def is_first() -> bool:
    """Whether this process writes what is to be written once."""
    return jax.process_index() == 0


def decide(what: Callable[[], Any]) -> Any:
    """Does something on process 0 and gives its result, which must be JSON, to all; an error likewise.

    Raises:
      InputError: as raised on process 0.
      FailedElsewhereError: another error was.
    """
    if jax.process_count() == 1:
        return what()
    error: Exception | None = None
    said = b""
    if is_first():
        try:
            said = json.dumps({"result": what()}).encode()
        except Exception as raised:
            error = raised
            said = json.dumps({"error": str(raised), "input": isinstance(raised, InputError)}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
    text = np.frombuffer(said.ljust(size, b"\0")[:size], np.uint8)
    heard = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(text)).tobytes())
    if error is not None:
        raise error
    if "error" in heard:
        raise (InputErrorElsewhere if heard["input"] else FailedElsewhereError)(heard["error"])
    return heard["result"]


@contextmanager
def together() -> Iterator[None]:
    """Around what every process does for itself, alone, and may refuse: when one does, all do. The first one says it.

    Raises:
      InputError: as raised on this process, or another.
    """
    error: InputError | None = None
    try:
        yield
    except InputError as raised:
        error = raised
    if jax.process_count() > 1:
        failed = np.flatnonzero(multihost_utils.process_allgather(np.bool_(error is not None)))
        if failed.size and failed[0] != jax.process_index():
            raise InputErrorElsewhere(f"process {failed[0]} says why") from error
    if error is not None:
        raise error


def anywhere(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    return flag if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def require_same(what: str, value: str) -> None:
    """Raises InputError on every process when some hold another value than process 0; they are named."""
    if jax.process_count() == 1:
        return
    mine = np.frombuffer(hashlib.sha256(value.encode()).digest()[:8], np.uint32)
    all_PD = np.asarray(multihost_utils.process_allgather(mine))
    other = [i for i, row in enumerate(all_PD) if (row != all_PD[0]).any()]
    if other:
        kind = InputError if is_first() else InputErrorElsewhere
        raise kind(f"{what}: not the same on process 0 and on {', '.join(map(str, other))} of {len(all_PD)}")


@contextmanager
def naming_lost_processes(patience_s: float = HEARTBEAT_S + 15) -> Iterator[None]:
    """When a computation fails because another process is gone, says which one.

    A broken connection shows at once, who broke it only when that process misses a barrier.

    Raises:
      LostProcessError: a process is gone.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        first = first_line(error, 200)
        if jax.process_count() == 1 or first.startswith(_OF_THIS_PROCESS):
            raise
        lost = missing_processes("after a failure", patience_s)
        if not lost:
            raise  # all are there: the failure is another
        raise LostProcessError(
            f"lost process {', '.join(map(str, lost))} of {jax.process_count()} ({first}); the same command, started "
            "again on all of them, continues from the last checkpoint"
        ) from error


def meet(where: str, patience_s: float) -> None:
    """Waits until all processes have come here.

    Raises:
      LostProcessError: some have not in that time.
    """
    if jax.process_count() > 1 and (said := _wait_for_all(where, patience_s)) is not None:
        lost = ", ".join(map(str, named_as_missing(said))) or "?"
        raise LostProcessError(f"lost process {lost} of {jax.process_count()}, waiting for it ({where})")


def missing_processes(barrier: str, patience_s: float) -> list[int]:
    """Waits for all processes, and returns those that did not come in time, as far as the runtime says who they are."""
    return named_as_missing(_wait_for_all(barrier, patience_s) or "")


def leave(code: int, patience_s: float = 10) -> None:
    """Before a process ends for an error. If the others do not end with it, it ends here, and they hear of it.

    JAX's own farewell would wait for them while they wait for it.
    """
    if several() and _wait_for_all("leaving", patience_s) is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        leave_alone(code)


def leave_alone(code: int) -> NoReturn:
    """Ends this process without JAX's farewell. Process 0 stays a moment: once it is gone, JAX aborts the others, which
    may still have something to say. Nothing is flushed, as another thread may hang in just that.
    """
    if several() and is_first():
        time.sleep(LINGER_S)
    os._exit(code)


def _wait_for_all(barrier: str, patience_s: float) -> str | None:
    """None when all processes have come to the barrier in time, else what the runtime says of those that have not."""
    import orbax.checkpoint as ocp

    try:
        ocp.multihost.get_barrier_sync_fn()(key=f"igpt {barrier}", timeout_ms=round(1000 * patience_s))
    except Exception as error:  # its class differs between versions
        return str(error)
    return None


def named_as_missing(message: str) -> list[int]:
    """The processes that a message of the coordination service gives up on; it has said it in several ways."""
    if "Failed to send RPC to coordination service" in message:
        return [0]  # which runs the service
    lists = re.findall(r"(?:timed out task names|stopped sending heartbeats\)):\s*((?:\S*\d+\s+)+)", message)
    single = re.findall(r"\bTask (\d+) heartbeat timeout|/task:(\d+)", message)
    found = [number for names in lists for number in re.findall(r"(\d+)\s", names)]
    return sorted({int(number) for number in [*found, *(number for pair in single for number in pair if number)]})
