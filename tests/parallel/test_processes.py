"""Barriers name who is missing: process 0 of three, with a coordination service of the tests' own."""

import json

import jax
import pytest
from jax._src import distributed

from igpt_jax import InputError
from igpt_jax.parallel import processes
from igpt_jax.parallel.processes import LostProcessError, any_process, barrier, naming_lost_processes, on_process_zero


class Service:
    """Keys and values, and a barrier to which some of the other processes come."""

    def __init__(self, *others):
        self.others, self.values, self.reachable, self.late = others, {}, True, False

    def key_value_set(self, key, value):
        assert key not in self.values  # as the real one
        self.values[key] = value

    def key_value_dir_get(self, folder):
        if not self.reachable:
            raise RuntimeError("no connection")
        return [(key, value) for key, value in self.values.items() if key.startswith(folder)]

    def wait_at_barrier(self, key, timeout_ms):
        for process in self.others:
            self.values.setdefault(f"{key}/{process}", "")
        if self.late or len(self.others) < 2:
            raise RuntimeError(f"not all came within {timeout_ms} ms")


@pytest.fixture
def service(monkeypatch):
    service = Service(1, 2)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    monkeypatch.setattr(distributed.global_state, "client", service)
    monkeypatch.setattr(processes, "_calls", processes.collections.Counter())
    return service


def test_long_work_on_process_zero_keeps_nobody_in_a_collective(service, monkeypatch):
    """A collective gives up after half a minute; here there is none, and as much patience as is asked for."""
    waits = []
    original = service.wait_at_barrier
    monkeypatch.setattr(service, "wait_at_barrier", lambda key, ms: waits.append(ms) or original(key, ms))
    assert on_process_zero(lambda: [1, "x"], patience_s=7) == [1, "x"]
    assert not any_process(False)
    assert any_process(True)
    assert waits == [7000, 1000 * processes.PATIENCE_S, 1000 * processes.PATIENCE_S]
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    service.values["igpt/the part of process 0/2/0"] = json.dumps({"error": "no", "input": True})
    with pytest.raises(processes.InputErrorElsewhere, match="no"):
        on_process_zero(lambda: pytest.fail("not here"))


def test_one_process_too_gets_what_json_keeps(monkeypatch):
    """So that what cannot be sent to others is noticed without others."""
    assert on_process_zero(lambda: (1, None)) == [1, None]
    with pytest.raises(TypeError, match="not JSON serializable"):
        on_process_zero(lambda: json)

    def bad():
        raise InputError("bad")

    with pytest.raises(InputError, match="bad"):
        on_process_zero(bad)


def test_who_fails_alone_does_not_wait_for_those_who_go_on(service, monkeypatch):
    """JAX's shutdown barrier would wait for them, and they for this one in a collective."""
    codes = []
    monkeypatch.setattr(processes, "is_multiprocess", lambda: True)
    monkeypatch.setattr(processes, "exit_now", codes.append)
    processes.exit_if_others_continue(2, 1)
    assert codes == []  # they end too
    service.others = (1,)
    processes.exit_if_others_continue(2, 1)
    assert codes == [2]


def lost_at(where):
    with pytest.raises(LostProcessError, match=where) as error:
        barrier(where, 1)
    return error.value.lost


def test_a_barrier_names_those_that_did_not_come_this_time(service):
    """Whoever came to an earlier barrier of the same name is not taken for present."""
    barrier("lunch", 1)
    service.others = (1,)
    assert lost_at("lunch") == [2]
    service.others = ()
    assert lost_at("lunch") == [1, 2]
    service.reachable = False
    assert lost_at("lunch") == [0]  # it runs the service


def test_a_failed_computation_names_the_lost_process_and_the_cause(service):
    service.others = (2,)
    message = r"lost process 1 of 3 \(UNKNOWN: connection closed\)"
    with pytest.raises(LostProcessError, match=message), naming_lost_processes():
        raise jax.errors.JaxRuntimeError("UNKNOWN: connection closed")


@pytest.mark.parametrize(
    ("message", "others", "late"),
    [("UNKNOWN: a bug", (1, 2), False), ("UNKNOWN: a bug", (1, 2), True), ("RESOURCE_EXHAUSTED: memory", (), False)],
)
def test_other_failures_stay_what_they_are(service, message, others, late):
    """All processes are there, if late, or the failure cannot come from another one; then nobody waits."""
    service.others, service.late = others, late
    with pytest.raises(jax.errors.JaxRuntimeError, match=message), naming_lost_processes():
        raise jax.errors.JaxRuntimeError(message)
    assert bool(service.values) == bool(others)
