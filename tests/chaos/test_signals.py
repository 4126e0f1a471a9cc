"""SIGTERM, SIGINT and SIGKILL from outside, again and again: every run says where it was saved, and goes on there."""

import re
import signal
import time

import jax
import numpy as np
import pytest

from igpt_jax.pretrained import load_workdir
from igpt_jax.training.checkpoint import list_checkpoints
from tests.processes import ENDLESS, continue_args, finish, lines, lines_written, named_by_jax, start, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(7200)]


def stop(workdir, processes, devices, victim, signum, rng):
    """Goes on with a run until it learns, ends it by a signal to one of its processes; gives what all of them did."""
    running = start(workdir, processes, devices, *ENDLESS)
    wait_for(workdir / "metrics.jsonl", running, more_than=lines_written(workdir))
    time.sleep(rng.uniform(0, 0.5))
    running[victim].send_signal(signum)
    return finish(running)


def saved_at(done):
    """The step at which all say they are saved."""
    [step] = {int(re.search(r"saved at step (\d+)", err)[1]) for _, _, err in done}
    return step


def newest(workdir):
    """The newest complete checkpoint, or 0."""
    return max((int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()), default=0)


def went_on_from(done, step):
    return step == 0 or f"continuing from step {step}" in done[0][2]


@pytest.mark.parametrize(
    ("processes", "times"), [(1, 10), (2, 5)], ids=["one process, 10 of each", "one of two processes, 5 of each"]
)
def test_signals(processes, times, tmp_path, record_counts):
    """Bit for bit the run that was never stopped, on the same number of processes."""
    rng = np.random.default_rng(processes)
    workdir, step, devices = tmp_path / "run", 0, 4 // processes
    counts = {"SIGTERM": 0, "SIGINT": 0}
    for i, signum in enumerate(rng.permutation([signal.SIGTERM, signal.SIGINT] * times).tolist()):
        done = stop(workdir, processes, devices, i % processes, signum, rng)
        # of several processes, those that were told by the others say SIGTERM
        codes = {code for code, _, _ in done}
        assert codes <= {128 + signum, 128 + signal.SIGTERM}, done
        saved = saved_at(done)
        assert went_on_from(done, step), done
        assert saved > step
        assert (workdir / "checkpoints" / str(saved)).is_dir()
        step = saved
        counts[signal.Signals(signum).name] += 1
    last = step + 3
    for path in (workdir, tmp_path / "straight"):
        done = finish(start(path, processes, devices, *continue_args(last)))
        assert {code for code, _, _ in done} == {0}, done
        assert went_on_from(done, step if path == workdir else 0)
    ours, theirs = ((list_checkpoints(path, last)[0], load_workdir(path)) for path in (workdir, tmp_path / "straight"))
    assert ours[0].checksums == theirs[0].checksums  # of every array
    jax.tree.map(np.testing.assert_array_equal, ours[1].params, theirs[1].params)
    assert lines(workdir) == lines(tmp_path / "straight")
    record_counts("stopped and continued", counts)


def test_five_interruptions_and_other_numbers_of_processes(tmp_path, record_counts):
    """The losses of the run that was never stopped, within 1e-4: sums over processes are taken in another order."""
    rng = np.random.default_rng(0)
    workdir, step = tmp_path / "run", 0
    for processes, signum in [(1, "SIGTERM"), (2, "SIGINT"), (1, "SIGKILL"), (4, "SIGTERM"), (2, "SIGTERM")]:
        done = stop(workdir, processes, 4 // processes, processes - 1, signal.Signals[signum], rng)
        assert went_on_from(done, step), done
        if signum == "SIGKILL":
            step = newest(workdir)
        else:
            step = saved_at(done)
    last = step + 3
    for path in (workdir, tmp_path / "straight"):
        [(code, _, err)] = finish(start(path, 1, 4, *continue_args(last)))
        assert code == 0, err
    logged, expected = lines(workdir), lines(tmp_path / "straight")
    assert [line["step"] for line in logged] == [line["step"] for line in expected]
    worst = max(abs(a[k] - b[k]) / max(abs(b[k]), 1e-9) for a, b in zip(logged, expected) for k in b)
    record_counts("worst relative difference of a line", {"lines": len(logged), "worst": f"{worst:.1e}"})
    for a, b in zip(logged, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("victim", range(4))
def test_one_of_four_is_killed(victim, tmp_path, record_counts):
    """The others end within a minute and name it; the same command goes on."""
    workdir = tmp_path / "run"
    running = start(workdir, 4, 1, *ENDLESS)
    wait_for(workdir / "metrics.jsonl", running, more_than=14)
    running[victim].kill()
    began = time.monotonic()
    done = finish(running, timeout=60)
    seconds = time.monotonic() - began
    naming = 0
    for i, (code, _, err) in enumerate(done):
        named = re.search(r"lost process ([\d, ]+) of 4", err)
        naming += str(victim) in named[1] if named else victim in named_by_jax(err)
        # JAX ends some itself, process 0 being whom it asks about the others
        assert code in ((-signal.SIGKILL,) if i == victim else (75, -signal.SIGABRT)), err
    assert naming, done
    record_counts(
        "the others ended", {"after": f"{seconds:.0f} s", "naming it": naming, "codes": [c for c, _, _ in done]}
    )
    step = newest(workdir)
    done = finish(start(workdir, 4, 1, *continue_args(step + 2)))
    assert {code for code, _, _ in done} == {0}, done
    assert went_on_from(done, step)
