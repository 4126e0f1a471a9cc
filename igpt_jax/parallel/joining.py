"""The processes of a run meet before JAX joins them, so that the user sees who is missing.

JAX itself waits in silence, and aborts the program when its time is over. So all processes first connect to the port of
the coordinator. Process 0 listens there and tells the others who has come. When all have, it closes the port, and JAX's
coordination service opens it again.

A process sends one line of JSON, {"igpt": [number of processes, its own number, its name]}. It gets lines in return:
{"present": [numbers]} at first and when that has changed, and at last {"all": true} or {"error": message}.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from igpt_jax.errors import InputError, first_line

log = logging.getLogger(__name__)

REPORT_S = 15
"""A process that waits says so this often."""

RETRY_S = 0.25
"""How long a process waits before it connects again."""

TELL_S = 1
"""How often process 0 tells the others who has come, if that has changed."""

ATTEMPT_S = 5
"""How long a connection may take, and then the first line."""

OCCUPIED_S = 10
"""How long process 0 tries to open a port that is occupied: an earlier run may be about to end."""

HANDOVER_S = 60
"""How long JAX's service may take to open the port, and then JAX to join processes that are all there."""


class NotJoinedError(InputError):
    """Processes did not come in time. They may be late, so the same command may succeed when it is repeated."""


def parse_coordinator(coordinator: str) -> tuple[str, int]:
    """The host and the port of HOST:PORT. The host may be an IPv6 address, in brackets or not.

    Raises:
      InputError: the text has another form, or the port is not between 1 and 65535.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch("[0-9]+", port) or not 1 <= int(port) <= 65535:
        raise InputError(f"--coordinator {coordinator}: HOST:PORT is needed, with a PORT from 1 to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def meet(coordinator: str, num_processes: int, process_id: int, timeout_s: float) -> None:
    """Waits until all processes of the run have come, and says every 15 s for whom it waits.

    It returns on process 0 when the port is free for JAX's service, and on the others when that service is there.

    Raises:
      NotJoinedError: a process is missing after `timeout_s`, or process 0 does not answer.
      InputError: its name is unknown, its port is occupied, two processes have the same number, or they do not agree on
        how many there are.
    """
    member = _Member(coordinator, num_processes, process_id)
    try:
        socket.getaddrinfo(member.host, member.port)
    except (OSError, UnicodeError) as error:
        # Kubernetes makes a name known only when the pod has an address
        if isinstance(error, UnicodeError) or "KUBERNETES_SERVICE_HOST" not in os.environ:
            unknown = f"no machine of the name {member.host} is known"
            raise InputError(f"--coordinator {coordinator}: {unknown} ({_reason(error)})") from None
    asyncio.run(_meet(member, timeout_s))


async def _meet(member: _Member, timeout_s: float) -> None:
    start = time.monotonic()
    registry = _Registry(member) if member.process_id == 0 else None
    tasks = [asyncio.create_task(part) for part in [member.register(), *([registry.serve()] if registry else [])]]
    try:
        while True:
            left = start + timeout_s - time.monotonic()
            done, waiting = await asyncio.wait(tasks, timeout=min(REPORT_S, left), return_when="FIRST_EXCEPTION")
            for task in done:
                task.result()  # raises what it raised
            if not waiting:
                break
            waited = time.monotonic() - start
            if waited >= timeout_s:
                message = member.complaint(timeout_s)
                if registry:
                    registry.tell(error=message, late=True)
                raise NotJoinedError(message)
            log.warning("waiting for %s, %.0f of %.0f s", member.awaited(), waited, timeout_s)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not registry:
        await member.see_service()


class _Member:
    """One process's part: it asks process 0 who has come. Process 0 asks itself, as JAX will."""

    def __init__(self, coordinator: str, num_processes: int, process_id: int) -> None:
        self.coordinator, self.num_processes, self.process_id = coordinator, num_processes, process_id
        self.host, self.port = parse_coordinator(coordinator)
        self.name = f"pid {os.getpid()} on {socket.gethostname()}"
        self.present: list[int] | None = None  # None: process 0 does not answer
        self.reason = "not yet tried"  # why it does not

    async def register(self) -> None:
        """Returns when all have come."""
        while True:
            try:
                async with self._connection() as (reader, writer):
                    writer.write(_line(igpt=[self.num_processes, self.process_id, self.name]))
                    if await self._listen(reader):
                        return
            except OSError as error:  # TimeoutError too
                self.reason = _reason(error)
            self.present = None
            await asyncio.sleep(RETRY_S)

    async def _listen(self, reader: asyncio.StreamReader) -> bool:
        """Follows what process 0 tells. Whether all have come; if not, the connection is over."""
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_S if self.present is None else None):
                    line = await reader.readline()
                if not line:
                    self.reason = "the connection was closed"
                    return False
                message = json.loads(line)
                if "all" in message:
                    return True
                error = message.get("error")
                self.present = None if error else message["present"]
            except (ValueError, TypeError, KeyError, AttributeError):
                self.reason = "another program answers, or a run that has all its processes"
                return False
            if error:
                raise (NotJoinedError if message.get("late") else InputError)(error)

    async def see_service(self) -> None:
        """Returns when JAX's service has opened the port. JAX would try again only after a second."""
        end = time.monotonic() + HANDOVER_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                async with self._connection():
                    return
            await asyncio.sleep(RETRY_S / 10)
        gone = "process 0 went away"
        raise NotJoinedError(f"all {self.num_processes} processes had come to {self.coordinator}, but {gone}")

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Raises OSError if nobody answers."""
        async with asyncio.timeout(ATTEMPT_S):
            reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    def awaited(self) -> str:
        if self.present is not None:
            return f"{self._missing()} to join at {self.coordinator}"
        if self.process_id == 0:
            return f"this process, number 0, to be reachable at {self.coordinator} ({self.reason})"
        return f"process 0 to answer at {self.coordinator} ({self.reason})"

    def complaint(self, timeout_s: float) -> str:
        """What to say when the time is over."""
        if self.present is not None:
            missing = f"{self._missing()} did not join at {self.coordinator} within {timeout_s:.0f} s"
            return f"{missing}: were they started, and do they reach that address?"
        if self.process_id == 0:
            return f"process 0 does not reach itself at {self.coordinator} ({self.reason}): is that this machine?"
        silent = f"process 0 did not answer at {self.coordinator} within {timeout_s:.0f} s ({self.reason})"
        return f"{silent}: was it started, and is that its address?"

    def _missing(self) -> str:
        missing = sorted(set(range(self.num_processes)) - set(self.present or ()))
        return f"{len(missing)} of {self.num_processes} processes ({_some(missing)})"


class _Registry:
    """The other part of process 0: it keeps the list of those who have come."""

    def __init__(self, member: _Member) -> None:
        self.member = member
        self.connected: dict[int, tuple[str, asyncio.StreamWriter]] = {}  # number -> name, connection
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        """Returns when all have come and are told so. The port is then free again."""
        server = await self._open()
        try:
            told: list[int] = []
            while not (await asyncio.wait([self.outcome], timeout=TELL_S))[0]:
                present = sorted(self.connected)
                if present != told:
                    self.tell(present=present)
                told = present
            self.outcome.result()  # raises, if that is the outcome
        finally:
            for listening in server.sockets:  # accept no more
                asyncio.get_running_loop().remove_reader(listening)
            for _ in range(4):  # let a connection that was just accepted get to `_receive`: Server.close would lose it
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            server.close()
        self.tell(all=True)

    async def _open(self) -> asyncio.Server:
        """Opens the port on all addresses of this machine, or on the one that is meant for JAX's service."""
        host, port = None, self.member.port
        if address := os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
            host, port = parse_coordinator(address)
            host = None if host == "::" else host  # which is IPv4 too for JAX
        end = time.monotonic() + OCCUPIED_S
        while True:
            try:
                # whoever cancels start_server while it begins to serve would leave the port open
                server = await asyncio.start_server(self._receive, host, port, start_serving=False)
                with contextlib.ExitStack() as unless_serving:
                    unless_serving.callback(server.close)
                    await server.start_serving()
                    unless_serving.pop_all()
                return server
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise InputError(f"process 0 cannot open port {port}: {_reason(error)}") from None
                if time.monotonic() > end:
                    raise InputError(f"port {port}, which process 0 has to open, is occupied: take another") from None
            await asyncio.sleep(RETRY_S)

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keeps one process on the list as long as it is connected."""
        strange = (OSError, ValueError, TypeError, KeyError)  # from other programs
        with contextlib.closing(writer), contextlib.suppress(*strange, asyncio.CancelledError):
            async with asyncio.timeout(ATTEMPT_S):
                of, number, name = json.loads(await reader.readline())["igpt"]
            total = self.member.num_processes
            if of != total:
                differ = f"{of} on process {number} ({name}), {total} on process 0 ({self.member.name})"
                self._refuse(writer, f"--num-processes: {differ}; all need the same")
                return
            if number in self.connected:
                both = f"{self.connected[number][0]}; {name}"
                self._refuse(writer, f"--process-id {number}: two processes have it ({both}); each needs its own")
                return
            self.connected[number] = name, writer
            writer.write(_line(present=sorted(self.connected)))
            if self.connected.keys() >= set(range(total)) and not self.outcome.done():
                self.outcome.set_result(None)
            with contextlib.suppress(OSError):
                await reader.read()  # until the connection is over
            del self.connected[number]

    def _refuse(self, writer: asyncio.StreamWriter, message: str) -> None:
        """Ends the meeting for all: nobody can tell which of two processes is the wrong one."""
        self.tell(writer, error=message)
        if not self.outcome.done():
            self.outcome.set_exception(InputError(message))

    def tell(self, *others: asyncio.StreamWriter, **message: Any) -> None:
        """Sends a message to all that have come, and to others."""
        for writer in [*(writer for _, writer in self.connected.values()), *others]:
            writer.write(_line(**message))


def _line(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _reason(error: Exception) -> str:
    """Why a connection failed. asyncio's own messages repeat the address, or several."""
    if isinstance(error, socket.gaierror) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer"
    numbers = {int(number) for number in re.findall(r"Errno (\d+)", str(error))}
    return ", ".join(os.strerror(number).lower() for number in sorted(numbers)) or first_line(error)


def _some(numbers: Sequence[int], limit: int = 16) -> str:
    """Numbers as text, the first ones if there are many."""
    rest = f" and {len(numbers) - limit} more" if len(numbers) > limit else ""
    return ", ".join(map(str, numbers[:limit])) + rest
