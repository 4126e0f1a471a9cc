"""Real processes on loopback: the run is the same however many there are, and ends together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from igpt_jax.parallel.multihost import named_as_missing
from tests.test_layering import ROOT

pytestmark = pytest.mark.timeout(900)  # compiling in several processes on few cores

SMALL = "--tiny --model.n-layer 1 --model.vocab-size 20 --optim.warmup-steps 2 --train.steps 10 --train.log-every 1"
ARGS = ["train", str(ROOT / "experiments" / "digits.py"), *SMALL.split(), "--train.eval-every", "5"]
RUN = "import sys; from igpt_jax.cli import main; sys.exit(main(sys.argv[1:]))"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(workdir, processes, devices, *extra):
    """The processes of one run, each with so many fake devices."""
    port = free_port()
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    together = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", str(processes), "--process-id"]
    command = [sys.executable, "-c", RUN, *ARGS, "--workdir", str(workdir), *extra]
    return [
        subprocess.Popen(
            [*command, *([*together, str(i)] if processes > 1 else [])],
            **{"env": env, "cwd": ROOT, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
        )
        for i in range(processes)
    ]


def finish(running, timeout=600):
    """(exit code, stdout, stderr) of each."""
    done = []
    try:
        for process in running:
            out, err = process.communicate(timeout=timeout)
            done.append((process.returncode, out, err))
    finally:
        for process in running:
            process.kill()
    return done


def lines(workdir):
    """metrics.jsonl without what depends on the clock."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "train/images_per_s"} for line in found]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    [(code, _, err)] = finish(start(workdir, 1, 4))
    assert code == 0, err
    return workdir


@pytest.mark.parametrize(("processes", "mesh"), [(2, ()), (4, ()), (2, ("--mesh.data", "1", "--mesh.tensor", "4"))])
def test_losses_do_not_depend_on_the_number_of_processes(alone, tmp_path, processes, mesh):
    """Within 1e-5: sums over processes are taken in another order. Process 0 alone reports."""
    done = finish(start(tmp_path / "run", processes, 4 // processes, *mesh))
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
    port = free_port()
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // processes}"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BATCHES, *map(str, (processes, i, port, tensor))],
            **{"env": env, "cwd": ROOT, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
        )
        for i in range(processes)
    ]
    done = finish(running)
    assert all(code == 0 for code, _, _ in done), done
    return {tuple(re.findall(r"batch (\w+ 32)", out)) for _, out, _ in done}


def test_every_global_batch_is_the_same_on_any_number_of_processes():
    """By sha256 of the whole batch as each process sees it; also where processes share rows (tensor over all)."""
    [expected] = batch_digests(1, 1)
    assert len(set(expected)) == 4
    assert batch_digests(2, 1) == batch_digests(4, 1) == batch_digests(2, 8) == {expected}


def test_a_signal_to_one_process_saves_all_and_another_number_continues(alone, tmp_path):
    """SIGTERM to the second of two; then one process goes on alone. The end is that of the run never stopped."""
    workdir = tmp_path / "run"
    running = start(
        workdir, 2, 2, "--train.steps", "100000", "--optim.schedule", "constant", "--train.log-every", "100"
    )
    wait_for(workdir / "metrics.jsonl", running)
    running[1].send_signal(signal.SIGTERM)
    done = finish(running)
    assert [code for code, _, _ in done] == [143, 143], done
    saved = {re.search(r"saved at step (\d+)", err)[1] for _, _, err in done}
    assert len(saved) == 1
    step = int(saved.pop())
    assert (workdir / "checkpoints" / str(step)).is_dir()
    more = ("--train.steps", str(step + 2), "--optim.schedule", "constant", "--train.log-every", "1")
    [(code, _, err)] = finish(start(workdir, 1, 4, *more))
    assert code == 0, err
    assert f"continuing from step {step}" in err


def wait_for(path, running, timeout=600):
    """Until a file has a line."""
    end = time.monotonic() + timeout
    while not (path.exists() and path.read_text().count("\n")):
        assert time.monotonic() < end
        assert all(process.poll() is None for process in running), finish(running)
        time.sleep(0.2)


def test_bad_input_ends_all_and_is_said_once(alone, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "holiday.jpg").write_bytes(b"x")
    done = finish(start(tmp_path / "run", 2, 2))
    assert [code for code, _, _ in done] == [2, 2]
    assert "holds other files" in done[0][2]
    assert "holds other files" not in done[1][2]


def test_flags_that_belong_together():
    command = [sys.executable, "-c", RUN, *ARGS, "--coordinator", "127.0.0.1:1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--num-processes, --process-id: missing" in done.stderr


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
