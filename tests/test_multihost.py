"""Real processes on loopback: the run is the same however many there are, and ends together."""

import re
import shutil
import signal
import time

import pytest

from igpt_jax.parallel.multihost import named_as_missing
from tests.processes import ARGS, ENDLESS, RUN, continue_args, finish, free_port, joined, lines, popen, start, wait_for
from tests.test_layering import ROOT

pytestmark = pytest.mark.timeout(900)  # compiling in several processes on few cores


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with two devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    [(code, _, err)] = finish(start(workdir, 1, 2))
    assert code == 0, err
    return workdir


@pytest.mark.parametrize(("processes", "mesh"), [(2, ()), (4, ()), (2, ("--mesh.data", "1", "--mesh.tensor", "4"))])
def test_losses_do_not_depend_on_the_number_of_processes(alone, tmp_path, processes, mesh):
    """Two devices each. Within 1e-5: sums over devices are taken in another order. Process 0 alone reports."""
    done = finish(start(tmp_path / "run", processes, 2, *mesh))
    assert [code for code, _, _ in done] == [0] * processes, done
    assert "per-pixel histograms" in done[0][1]
    assert not any("per-pixel" in out or "samples.png" in out for _, out, _ in done[1:])
    expected, found = lines(alone), lines(tmp_path / "run")
    assert len(found) == len(expected) == 12
    for a, b in zip(expected, found, strict=True):
        assert b == pytest.approx(a, rel=1e-5)
    for name in ("samples.png", "completions.png", "loss.png"):
        assert (tmp_path / "run" / name).stat().st_size > 1000


BATCHES = """
import hashlib, sys
from igpt_jax.parallel import multihost
n, i, port, tensor = map(int, sys.argv[1:])
if n > 1:
    multihost.start(f"127.0.0.1:{port}", n, i)
import numpy as np
from igpt_jax import experiment, inputs
from igpt_jax.config import MeshConfig
from igpt_jax.parallel.mesh import fetch_whole, make_mesh, put_batch
mesh = make_mesh(MeshConfig(tensor=tensor))
data = inputs.open_data(experiment.load_config("experiments/digits.py", tiny=True), mesh)
batches = data.train_batches(45)  # from the first epoch into the second
for _ in range(4):
    batch = put_batch(next(batches), mesh)
    whole = b"".join(fetch_whole(batch[key]).tobytes() for key in sorted(batch))
    print("batch", hashlib.sha256(whole).hexdigest(), len(batch["image"]))
"""


def batch_digests(processes, tensor):
    """What each process sees of four global batches."""
    port, each = free_port(), 8 // processes
    running = [popen(["-c", BATCHES, processes, i, port, tensor], each) for i in range(processes)]
    done = finish(running)
    assert all(code == 0 for code, _, _ in done), done
    return {tuple(re.findall(r"batch (\w+ 32)", out)) for _, out, _ in done}


def test_every_global_batch_is_the_same_on_any_number_of_processes():
    """By sha256 of the whole batch as each process sees it; also where processes share rows (tensor over all)."""
    [expected] = batch_digests(1, 1)
    assert len(set(expected)) == 4
    assert batch_digests(2, 1) == batch_digests(4, 1) == batch_digests(2, 8) == {expected}


def test_a_signal_to_one_process_saves_all_and_another_number_continues(tmp_path):
    """SIGTERM to the second of two; then one process goes on alone. The losses are those of the run never stopped."""
    workdir = tmp_path / "run"
    running = start(workdir, 2, 2, *ENDLESS)
    wait_for(workdir / "metrics.jsonl", running)
    running[1].send_signal(signal.SIGTERM)
    done = finish(running)
    assert [code for code, _, _ in done] == [143, 143], done
    [step] = {int(re.search(r"saved at step (\d+)", err)[1]) for _, _, err in done}
    assert (workdir / "checkpoints" / str(step)).is_dir()
    for path in (workdir, tmp_path / "straight"):
        [(code, _, err)] = finish(start(path, 1, 4, *continue_args(step + 2)))
        assert code == 0, err
        assert (f"continuing from step {step}" in err) == (path == workdir)
    for a, b in zip(lines(workdir), lines(tmp_path / "straight"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


SPLIT = ("--mesh.data", "1", "--mesh.fsdp", "2")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What two processes, each with half of the state, left and said when the second was killed."""
    workdir = tmp_path_factory.mktemp("killed") / "run"
    running = start(workdir, 2, 1, *ENDLESS, *SPLIT)
    wait_for(workdir / "metrics.jsonl", running, more_than=22)
    running[1].kill()
    began = time.monotonic()
    done = finish(running)
    return workdir, done, time.monotonic() - began


def test_when_one_is_killed_the_other_says_so_and_ends(killed):
    _, done, seconds = killed
    assert done[1][0] == -signal.SIGKILL
    code, _, err = done[0]
    assert code in (75, -signal.SIGABRT), err  # the latter where JAX's own watch is first
    assert 1 in named_as_missing(err) or "lost process 1 of 2" in err, err
    assert seconds < 60


def test_damage_that_one_process_sees_is_named_and_the_checkpoint_before_it_used(killed, tmp_path):
    """The second process's half is cut short: both go on from the one before, and so does a reader."""
    workdir = shutil.copytree(killed[0], tmp_path / "run")
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    before, newest = steps[-2:]
    for path in (workdir / "checkpoints" / str(newest)).rglob("ocdbt.process_1/d/*"):
        path.write_bytes(path.read_bytes()[:20])
    done = finish(start(workdir, 2, 1, *continue_args(newest + 1), *SPLIT))
    assert [code for code, _, _ in done] == [0, 0], done
    assert f"checkpoint {newest} is damaged" in done[0][2]
    assert f"continuing from step {before}" in done[0][2]
    assert (workdir / "damaged" / str(newest)).is_dir()


def test_bad_input_ends_all_and_is_said_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "holiday.jpg").write_bytes(b"x")
    done = finish(start(tmp_path / "run", 2, 2))
    assert [code for code, _, _ in done] == [2, 2]
    assert "holds other files" in done[0][2]
    assert "holds other files" not in done[1][2]


def test_bad_input_of_one_process_ends_all(tmp_path):
    """What one alone cannot do is said by it, and the other does not wait."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    args = ["train", "experiments/digits.py", "--tiny", "--workdir", tmp_path / "run"]
    began = time.monotonic()
    done = finish(joined([(args, tmp_path), (args, tmp_path / "experiments")], 1))
    assert [code for code, _, _ in done] == [2, 2], done
    assert "igpt[1]: experiment experiments/digits.py: no such file" in done[1][2]
    assert "igpt" not in done[0][2]
    assert not (tmp_path / "run").exists()
    done = finish(joined([(args, tmp_path), ([*args, "--seed", "1"], tmp_path)], 1))
    assert [code for code, _, _ in done] == [2, 2], done
    assert "the command line: not the same on process 0 and on 1 of 2" in done[0][2]
    assert time.monotonic() - began < 60


LONE = """
import sys
import time
from igpt_jax.parallel import multihost
i, port = map(int, sys.argv[1:])
multihost.start(f"127.0.0.1:{port}", 3, i)
print(multihost.missing_processes("roll call", 60))
if i == 2:
    print("no", file=sys.stderr)
    multihost.leave(2, 1)
print(multihost.missing_processes("second roll call", 5))
time.sleep(2 * i)
multihost.leave(75, 1)
"""


def test_a_barrier_says_who_is_missing_and_who_fails_alone_ends_alone():
    port = free_port()
    done = finish([popen(["-c", LONE, i, port], 1) for i in range(3)])
    assert [code for code, _, _ in done][2] == 2
    for code, out, err in done[:2]:
        assert out.splitlines() == ["[]", "[2]"], err
        assert code == 75


HANG = """
import sys
import time
from igpt_jax.parallel import multihost
from igpt_jax.training.watchdog import Watchdog
i, port = map(int, sys.argv[1:])
multihost.start(f"127.0.0.1:{port}", 2, i)
multihost.meet("roll call", 60)
def stuck():
    time.sleep(60)
with Watchdog(1 + 2 * i):
    stuck()
"""


def test_when_all_hang_all_say_where():
    """Though process 0's watchdog is the first."""
    port = free_port()
    for i, (code, _, err) in enumerate(finish([popen(["-c", HANG, i, port], 1) for i in range(2)])):
        assert f"igpt[{i}]: no progress" in err
        assert "in stuck" in err
        assert code == 75


def test_flags_that_belong_together():
    [(code, _, err)] = finish([popen(["-c", RUN, *ARGS, "--coordinator", "127.0.0.1:1"], 1)])
    assert code == 2
    assert "--num-processes, --process-id: missing" in err


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (
            "Barrier timed out. # of tasks that reached the barrier: 2/4.\nSome timed out task names:\n2\n3\n\n\nRPC",
            [2, 3],
        ),
        ("UNAVAILABLE: Task 2 heartbeat timeout. This indicates ... Barrier Id: x::0, Task: 2", [2]),
        ("The following tasks are unhealthy (stopped sending heartbeats):\n1\nThe tasks have crashed.", [1]),
        ("(stopped sending heartbeats):\n/job:jax_worker/replica:0/task:3\nThe tasks", [3]),
        ("Failed to send RPC to coordination service. Either the leader task ...", [0]),
        ("INVALID_ARGUMENT: something else 7", []),
    ],
)
def test_lost_processes_are_read_off_the_runtimes_messages(message, named):
    assert named_as_missing(message) == named
