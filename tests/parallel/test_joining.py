"""Joining processes: what a waiting one says, and how it gives up. JAX's part is replaced; tests/session.py has it."""

import logging
import socket
import threading

import jax
import pytest
from jax._src import xla_bridge

from igpt_jax.parallel import joining, processes
from tests.data.made import refused
from tests.processes import free_port


@pytest.fixture(autouse=True)
def never(monkeypatch):
    """JAX waits for ever, until this event."""
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(joining, "REPORT_S", 0.05)
    monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: False)
    event = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **timeouts: event.wait(10) and None)
    yield event
    event.set()


@pytest.mark.parametrize("answers", [True, False])
def test_who_waits_says_so_and_gives_up_in_one_line(caplog, answers):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] if answers else free_port()
        with pytest.raises(joining.NotJoinedError) as error:
            processes.start(f"127.0.0.1:{port}", 3, 2, join_timeout_s=0.2)
    state = (
        "not all 3 processes have joined at {}" if answers else "coordinator {} cannot be reached (Connection refused"
    )
    state = state.format(f"127.0.0.1:{port}")
    assert str(error.value).startswith(state)
    assert "\n" not in str(error.value)
    assert 1 <= len(caplog.records) <= 4
    assert all(state in r.getMessage() and r.levelno == logging.WARNING for r in caplog.records)


def test_an_unknown_name_is_given_up_too():
    with pytest.raises(joining.NotJoinedError, match=r"host\.invalid:1 cannot be reached"):
        joining.join("host.invalid:1", 2, 1, 0)
    with pytest.raises(joining.NotJoinedError, match="cannot be reached"):
        joining.join(f"{'a' * 70}:1", 2, 1, 0)


def test_an_occupied_port_may_be_tried_again():
    """jaxlib would crash."""
    with socket.create_server(("", 0)) as server, pytest.raises(joining.NotJoinedError, match="Address already in use"):
        processes.start(f"localhost:{server.getsockname()[1]}", 2, 0)


def test_joined_processes_go_on_and_errors_of_jax_are_one_line(never, monkeypatch, caplog):
    never.set()
    joining.join(f"localhost:{free_port()}", 2, 0, 10)
    assert not caplog.records

    def broken(*args, **timeouts):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(jax.distributed, "initialize", broken)
    refused(r"^processes cannot be joined: first; is localhost:1 reachable\?$", processes.start, "localhost:1", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("127.0.0.1:1", None, None), "num_processes, process_id: missing"),
        ((None, 2, None), "coordinator, process_id: missing"),
        (("a:1", 0, 0), "num_processes 0: must be at least 1"),
        (("a:1", 2, 2), "process_id 2: must be from 0 to 1"),
        *(((address, 2, 0), "must be HOST:PORT") for address in ("a", "a:", ":1", "a:0", "a:65536", "a:b", "[::1]")),
    ],
)
def test_arguments_that_cannot_be_right(arguments, says):
    refused(says, processes.start, *arguments)


def test_addresses_may_be_ipv6():
    assert joining.parse_coordinator("[::1]:80") == joining.parse_coordinator("::1:80") == ("::1", 80)


def test_without_a_cluster_there_is_one_process(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", None)
    processes.start()
    assert processes.process_label() == "igpt"
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    refused("num_processes or process_id is missing", processes.start)
