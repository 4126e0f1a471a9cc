"""The processes of a run meet, or say who is missing: each is a thread here, and JAX's service is a plain socket."""

import asyncio
import contextlib
import gc
import logging
import socket
import threading
import time

import pytest

from igpt_jax import InputError
from igpt_jax.parallel import joining, processes
from tests.processes import free_port


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    for name in ("RETRY_S", "TELL_S"):
        monkeypatch.setattr(joining, name, 0.02)
    for name in ("REPORT_S", "ATTEMPT_S", "OCCUPIED_S"):
        monkeypatch.setattr(joining, name, 0.3)
    for name in ("KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


class Process(threading.Thread):
    """One process of a run. `said` becomes its error, or 'joined'."""

    def __init__(self, port, number, of, timeout_s=20, host="127.0.0.1"):
        super().__init__(daemon=True)
        self.arguments = (f"{host}:{port}", of, number, timeout_s)
        self.said = "nothing"
        self.began = time.monotonic()
        self.start()

    def run(self):
        try:
            joining.meet(*self.arguments)
            self.said = "joined"
        except InputError as error:
            self.said = str(error)
            self.late = isinstance(error, joining.NotJoinedError)  # then the command may be repeated
        self.took = time.monotonic() - self.began

    def end(self):
        self.join(30)
        assert "\n" not in self.said
        return self.said


def open_service(port):
    """What JAX does on process 0 after the meeting: it opens the port, which has to be free."""
    return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)


def reports(caplog):
    """All that was logged; it has to be warnings."""
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


def wait_for_report(caplog, text):
    end = time.monotonic() + 30
    while not any(text in line for line in reports(caplog)):
        assert time.monotonic() < end, text
        time.sleep(0.02)


def test_all_that_come_join_and_nobody_speaks(caplog):
    """The others, when JAX's service has opened the port."""
    port = free_port()
    others = [Process(port, i, 3) for i in (2, 1)]
    assert Process(port, 0, 3).end() == "joined"
    time.sleep(0.1)
    assert [other.said for other in others] == ["nothing"] * 2
    with open_service(port):
        assert [other.end() for other in others] == ["joined"] * 2
    assert reports(caplog) == []


def test_one_process_needs_no_other():
    assert Process(free_port(), 0, 1).end() == "joined"


def test_missing_processes_are_named_on_all_that_wait(caplog):
    """Within the time of process 0, however long the others would wait."""
    port = free_port()
    running = [Process(port, 0, 4, timeout_s=1), Process(port, 2, 4, timeout_s=30)]
    for process in running:
        assert process.end().startswith(f"2 of 4 processes (1, 3) did not join at 127.0.0.1:{port} within 1 s")
        assert process.late
        assert process.took < 10
    expected = f"waiting for 2 of 4 processes (1, 3) to join at 127.0.0.1:{port}, "
    assert sum(line.startswith(expected) for line in reports(caplog)) >= 3


def test_a_process_that_leaves_is_missing_again(caplog):
    port = free_port()
    zero = Process(port, 0, 3)
    wait_for_report(caplog, "(1, 2)")
    assert "(2) did not join" in Process(port, 1, 3, timeout_s=1).end()
    caplog.clear()
    wait_for_report(caplog, "waiting for 2 of 3 processes (1, 2) to join")
    others = [Process(port, i, 3) for i in (1, 2)]
    assert zero.end() == "joined"
    with open_service(port):
        assert [other.end() for other in others] == ["joined"] * 2


def test_a_coordinator_that_does_not_answer_is_named(caplog):
    port = free_port()
    process = Process(port, 1, 2, timeout_s=0.8)
    assert process.end().startswith(f"process 0 did not answer at 127.0.0.1:{port} within 1 s (connection refused)")
    assert process.late
    assert process.took < 5
    assert reports(caplog)[0] == f"waiting for process 0 to answer at 127.0.0.1:{port} (connection refused), 0 of 1 s"


FOREIGN = [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"17\n", b"{}\n", b"\xff\n"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(b"", "the connection was closed"), (None, "no answer")]
    + [(reply, "another program answers, or a run that has all its processes") for reply in FOREIGN],
)
def test_another_program_is_not_taken_for_process_0(reply, reason):
    """It closes the connection, keeps silent, or answers something else."""
    with contextlib.ExitStack() as open_connections, socket.create_server(("127.0.0.1", 0)) as other:

        def answer():
            with contextlib.suppress(OSError):  # the socket is closed
                while True:
                    connection = open_connections.enter_context(other.accept()[0])
                    if reply is not None:
                        connection.sendall(reply)
                        connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        port = other.getsockname()[1]
        said = Process(port, 1, 2, timeout_s=0.8).end()
        assert said.startswith(f"process 0 did not answer at 127.0.0.1:{port} within 1 s ({reason})")
        assert Process(port, 0, 2).end() == f"port {port}, which process 0 has to open, is occupied: take another"
        other.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_process_0_waits_for_its_port():
    """An earlier run may be about to end."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = Process(port, 0, 1)
        time.sleep(0.1)
    assert process.end() == "joined"


def test_a_meeting_that_is_cancelled_while_it_opens_its_port_closes_it(monkeypatch):
    port, listen = free_port(), socket.socket.listen

    async def cancel():
        meeting = asyncio.create_task(joining._Registry(joining._Member(f"127.0.0.1:{port}", 2, 0)).serve())
        monkeypatch.setattr(socket.socket, "listen", lambda *args: meeting.cancel() and listen(*args))
        await asyncio.wait([meeting])
        assert meeting.cancelled()
        monkeypatch.undo()
        with open_service(port):
            pass

    asyncio.run(cancel())


def test_a_meeting_that_is_cancelled_while_it_accepts_a_connection_closes_it(monkeypatch):
    port, accept = free_port(), socket.socket.accept

    async def cancel():
        meeting = asyncio.create_task(joining._Registry(joining._Member(f"127.0.0.1:{port}", 2, 0)).serve())
        monkeypatch.setattr(socket.socket, "accept", lambda *args: meeting.cancel() and accept(*args))
        await asyncio.sleep(0.1)
        with socket.create_connection(("127.0.0.1", port)):
            await asyncio.wait([meeting])
        assert meeting.cancelled()

    asyncio.run(cancel())
    gc.collect()  # pytest turns the warning of a connection that is still open into an error


def test_strangers_do_not_disturb(caplog):
    port = free_port()
    zero = Process(port, 0, 2)
    for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b'{"igpt": 3}\n', b'{"igpt": [2, [], 0]}\n', b"[]\n", None):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                stranger = socket.create_connection(("127.0.0.1", port))
                break
        with stranger:
            if said is not None:
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
            stranger.settimeout(10)
            assert stranger.recv(100) == b""
    assert zero.said == "nothing"
    other = Process(port, 1, 2)
    assert zero.end() == "joined"
    with open_service(port):
        assert other.end() == "joined"
    reports(caplog)  # nothing else


def test_process_0_says_if_it_does_not_reach_itself(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", f"127.0.0.1:{free_port()}")
    port = free_port()
    said = Process(port, 0, 2, timeout_s=0.8).end()
    assert said.startswith(f"process 0 does not reach itself at 127.0.0.1:{port} (connection refused)")


@pytest.fixture
def known(monkeypatch):
    """Names that are known; none at first."""
    names, lookup = set(), socket.getaddrinfo

    def getaddrinfo(host, *args, **options):
        if host is not None and host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return lookup(host and "127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize("number", [0, 1])
def test_an_unknown_name_ends_at_once(known, number):
    process = Process(1234, number, 2, host="nowhere")
    reason = "no machine of the name nowhere is known (name or service not known)"
    assert process.end() == f"--coordinator nowhere:1234: {reason}"
    assert process.took < 5


def test_kubernetes_makes_a_name_known_later(monkeypatch, known, caplog):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    process = Process(free_port(), 0, 1, host="igpt-0")
    wait_for_report(caplog, "(name or service not known)")
    known.add("igpt-0")
    assert process.end() == "joined"


@pytest.mark.parametrize("twice", [0, 1])
def test_a_number_that_two_processes_have_ends_all(twice, caplog):
    port = free_port()
    running = [Process(port, i, 3) for i in (0, 1)]
    wait_for_report(caplog, "1 of 3 processes (2)")
    running.append(Process(port, twice, 3))
    for process in running:
        assert process.end().startswith(f"--process-id {twice}: two processes have it (pid ")
        assert process.took < 10


def test_other_numbers_of_processes_end_all():
    """Also process 0, if it has not reached itself yet."""
    port = free_port()
    other = Process(port, 1, 2)
    running = [other, Process(port, 0, 3)]
    for process in running:
        assert process.end().startswith("--num-processes: 2 on process 1 (pid ")
        assert ", 3 on process 0 (pid " in process.said
        assert process.took < 10


def test_long_lists_are_cut():
    assert joining._some(range(3)) == "0, 1, 2"
    assert joining._some(range(1, 512)).endswith(", 15, 16 and 495 more")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost", 2, 0), "--coordinator localhost: HOST:PORT is needed"),
        (("localhost:", 2, 0), "--coordinator localhost:: HOST:PORT is needed"),
        (("localhost:http", 2, 0), "--coordinator localhost:http: HOST:PORT is needed"),
        (("localhost:0", 2, 0), "--coordinator localhost:0: HOST:PORT is needed"),
        (("localhost:65536", 2, 0), "with a PORT from 1 to 65535"),
        ((":1234", 2, 0), "--coordinator :1234: HOST:PORT is needed"),
        (("", 2, 0), "--coordinator : HOST:PORT is needed"),
        (("localhost:1234", 0, 0), "--num-processes 0: must be at least 1"),
        (("localhost:1234", 2, 2), "--process-id 2: must be from 0 to 1, as --num-processes is 2"),
        (("localhost:1234", 2, -1), "--process-id -1: must be from 0 to 1, as --num-processes is 2"),
        (("localhost:1234", None, 0), "--num-processes: missing"),
    ],
)
def test_arguments_that_cannot_be_right(arguments, message):
    with pytest.raises(InputError) as error:
        processes.start(*arguments)
    assert message in str(error.value)


def test_an_ipv6_address_stands_in_brackets_or_not():
    assert joining.parse_coordinator("[::1]:1234") == joining.parse_coordinator("::1:1234") == ("::1", 1234)
