"""Joins processes by `jax.distributed`, which alone would wait in silence and abort the program at its deadline."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from concurrent.futures import Future, wait
from typing import Any

import jax

from igpt_jax.errors import InputError

log = logging.getLogger(__name__)
REPORT_S, HEARTBEAT_S = 15.0, 30  # a waiting process says so this often; after this silence one is dead for JAX


class NotJoinedError(InputError):
    """Processes did not come in time. JAX may still wait for them, so the program must end (`processes.exit_now`)."""


def parse_coordinator(coordinator: str) -> tuple[str, int]:
    """The host and the port of HOST:PORT. The host may be an IPv6 address, in brackets or not."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise InputError(f"coordinator {coordinator}: must be HOST:PORT, with a PORT from 1 to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join(coordinator: str, num_processes: int, process_id: int, timeout_s: float) -> None:
    """Joins all processes. Raises NotJoinedError after `timeout_s`, or if process 0 cannot open its port."""
    address, joined, begin = parse_coordinator(coordinator), Future[None](), time.monotonic()
    if process_id == 0 and not os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        try:
            socket.create_server(("", address[1])).close()
        except OSError as error:  # at which jaxlib would crash
            reason = os.strerror(error.errno or 0)
            raise NotJoinedError(f"process 0 cannot open port {address[1]} ({reason}): does a run have it?") from None

    def initialize() -> None:
        timeouts: Any = {"initialization_timeout": round(timeout_s) + 60, "heartbeat_timeout_seconds": HEARTBEAT_S}
        try:
            joined.set_result(jax.distributed.initialize(coordinator, num_processes, process_id, **timeouts))
        except Exception as error:
            joined.set_exception(error)

    threading.Thread(target=initialize, daemon=True).start()  # JAX's deadline comes after ours
    while not wait([joined], max(0, min(REPORT_S, begin + timeout_s - time.monotonic()))).done:
        try:
            socket.create_connection(address, timeout=5).close()
            state = f"not all {num_processes} processes have joined at {coordinator}"
        except (OSError, UnicodeError) as error:
            state = f"coordinator {coordinator} cannot be reached ({getattr(error, 'strerror', None) or error})"
        if (waited := time.monotonic() - begin) >= timeout_s:
            raise NotJoinedError(f"{state}, after {waited:.0f} s: were all started, and is the address right?")
        log.warning("process %d waits: %s; %.0f of %.0f s", process_id, state, waited, timeout_s)
    joined.result()
