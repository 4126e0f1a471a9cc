"""Real processes on loopback: the run is the same however many there are, and they stop together.

Most of it is one session of two processes (tests/session.py). What takes minutes is in tests/chaos.
"""

import contextlib
import hashlib
import json
import re
import signal
import socket
import time

import numpy as np
import pytest
from PIL import Image

from igpt_jax import load_pretrained, sample
from igpt_jax.cli import main
from igpt_jax.parallel.mesh import make_mesh, put_batch, to_host
from tests.processes import (
    ARGS,
    ENDLESS,
    RUN,
    continue_args,
    finish,
    free_port,
    lines,
    named_by_jax,
    popen,
    start,
    wait_for,
)
from tests.small_run import CFG
from tests.test_layering import ROOT

pytestmark = pytest.mark.timeout(600)  # compiling in several processes on few cores


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """(folder, [(exit code, what tests/session.py said, stderr, stdout) of each process]).

    Two processes with four devices each. In the end the second one gets SIGTERM while it trains.
    """
    folder, port = tmp_path_factory.mktemp("session"), free_port()
    (folder / "holiday").mkdir()
    (folder / "holiday" / "beach.jpg").write_bytes(b"x")
    for i in range(2):
        (folder / str(i)).mkdir()
        Image.fromarray(np.full((8, 8), 100 * i, np.uint8)).save(folder / str(i) / "photo.png")
    (folder / "0" / "experiments").symlink_to(ROOT / "experiments")
    env = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    running = [popen(["-m", "tests.session", port, i, folder], 4, **env) for i in range(2)]
    wait_for(folder / "endless" / "metrics.jsonl", running)
    running[1].send_signal(signal.SIGTERM)
    done = finish(running)
    return folder, [(code, re.findall(r">> (.*)", out), err, out) for code, out, err in done]


def test_they_agree_on_values_and_errors(session):
    for i, (_, said, _, _) in enumerate(session[1]):
        kind = ["InputError", "InputErrorElsewhere"][i]
        assert said[:3] == ["from process 0 [0, 'x']", "any True False", "the same"]
        assert said[3] == f"{kind} the value: not the same on process 0 and on 1 of 2"
        assert said[4] == ["InputErrorElsewhere process 1 reports the error", "InputError only here"][i]


def test_every_global_batch_is_the_same_on_any_number_of_processes(session):
    """By sha256 of the whole batch as each process sees it; also where processes share rows (tensor over all)."""
    import dataclasses

    from igpt_jax.datasets import open_data

    cfg = dataclasses.replace(CFG, data=dataclasses.replace(CFG.data, batch_size=32))
    mesh = make_mesh(cfg.mesh)
    stream = open_data(cfg, mesh).train_batches(45)
    expected = []
    for _ in range(4):
        batch = put_batch(next(stream), mesh)
        whole = b"".join(to_host(batch[key]).tobytes() for key in sorted(batch))
        expected.append(f"{hashlib.sha256(whole).hexdigest()} 32")
    assert len(set(expected)) == 4
    for _, said, _, _ in session[1]:
        assert [line for line in said if line.startswith("batch")] == [
            f"batch {tensor} {digest}" for tensor in (1, 8) for digest in expected
        ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run in one process with the same eight devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert main([*map(str, ARGS), "--workdir", str(workdir)]) == 0
    return workdir


def test_losses_do_not_depend_on_the_number_of_processes(session, alone):
    """Within 1e-5: sums over devices are taken in another order. Process 0 alone reports."""
    folder, done = session
    assert all("train 0" in said for _, said, _, _ in done)
    assert "per-pixel histograms" in done[0][3]
    assert "per-pixel" not in done[1][3]
    expected, measured = lines(alone), lines(folder / "run")
    assert len(measured) == len(expected) == 12
    for a, b in zip(expected, measured, strict=True):
        assert b == pytest.approx(a, rel=1e-5)
    for name in ("samples.png", "completions.png", "loss.png"):
        assert (folder / "run" / name).stat().st_size > 1000


def test_two_processes_draw_what_one_draws_and_the_first_writes_it(session):
    folder, done = session
    assert all("sample 0" in said for _, said, _, _ in done)
    weights = load_pretrained(folder / "run")
    drawn = sample(weights.model, weights.params, weights.colors, 3, sampler=weights.config.sampler)
    np.testing.assert_array_equal(np.load(folder / "0" / "x.npy"), drawn)
    assert not (folder / "1" / "x.npy").exists()


def test_bad_input_of_one_process_ends_all_and_is_reported_once(session):
    folder, done = session
    for command in ("complete other", "complete nowhere", "train holiday", "train missing", "train other seed"):
        assert all(f"{command} 2" in said for _, said, _, _ in done), command
    first, second = (err for _, _, err, _ in done)
    for message in (
        "the images: not the same on process 0 and on 1 of 2",
        "--out /proc/nowhere/y.png",
        "holds other files",
        "the command line: not the same on process 0 and on 1 of 2",
    ):
        assert message in first
        assert message not in second
    assert "igpt[1]: experiment experiments/digits.py: no such file" in second
    assert "no such file" not in first
    assert not (folder / "no").exists()


def test_a_signal_to_one_process_saves_all_and_another_number_continues(session, tmp_path):
    """The second of two got SIGTERM; then one process continues. The losses are those of the run never stopped."""
    folder, done = session
    assert all("stopped 143" in said for _, said, _, _ in done)
    assert [code for code, _, _, _ in done] == [0, 0], done
    [step] = {int(re.search(r"saved at step (\d+)", err)[1]) for _, _, err, _ in done}
    assert (folder / "endless" / "checkpoints" / str(step)).is_dir()
    for workdir in (folder / "endless", tmp_path / "straight"):
        assert main([*map(str, [*ARGS, *continue_args(step + 2)]), "--workdir", str(workdir)]) == 0
    for a, b in zip(lines(folder / "endless"), lines(tmp_path / "straight"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_when_one_is_killed_the_other_says_so_and_ends(tmp_path):
    running = start(tmp_path / "run", 2, 1, *ENDLESS)
    wait_for(tmp_path / "run" / "metrics.jsonl", running)
    running[1].kill()
    killed_at = time.monotonic()
    done = finish(running)
    assert done[1][0] == -signal.SIGKILL
    code, _, err = done[0]
    assert code in (75, -signal.SIGABRT), err  # the latter if JAX's own watch is first
    assert 1 in named_by_jax(err) or "lost process 1 of 2" in err, err
    assert time.monotonic() - killed_at < 60


LONE = """
import sys
import time
from igpt_jax.parallel import processes
i, port = map(int, sys.argv[1:])
processes.start(f"127.0.0.1:{port}", 3, i)
processes.barrier("roll call", 60)
if i == 2:
    print("no", file=sys.stderr)
    processes.exit_if_others_continue(2, 1)
try:
    processes.barrier("second roll call", 5)
except processes.LostProcessError as error:
    print(error.lost)
time.sleep(2 * i)
processes.exit_if_others_continue(75, 1)
"""


def test_a_barrier_says_who_is_missing_and_a_failing_process_ends_alone():
    port = free_port()
    done = finish([popen(["-c", LONE, i, port], 1) for i in range(3)])
    assert [code for code, _, _ in done][2] == 2
    for code, out, err in done[:2]:
        assert out.splitlines()[-1] == "[2]", err
        assert code == 75


HANG = """
import sys
import time
from igpt_jax.parallel import processes
from igpt_jax.training.watchdog import Watchdog
i, port = map(int, sys.argv[1:])
processes.start(f"127.0.0.1:{port}", 2, i)
processes.barrier("roll call", 60)
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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator", "127.0.0.1:1"], "--num-processes, --process-id: missing"),
        (["--coordinator", "127.0.0.1", "--num-processes", 2, "--process-id", 0], "HOST:PORT is needed"),
    ],
)
def test_flags_that_belong_together(flags, message):
    [(code, _, err)] = finish([popen(["-c", RUN, *ARGS, *flags], 1)])
    assert code == 2
    assert message in err


JOIN = """
import json
import logging
import sys
from igpt_jax import InputError
from igpt_jax.parallel import joining, processes
joining.REPORT_S = 1
logging.basicConfig(format="%(message)s")
try:
    processes.start(*json.loads(sys.argv[1]), join_timeout_s=float(sys.argv[2]))
    processes.barrier("roll call", 60)
    print(processes.process_label())
except InputError as error:
    sys.exit(f"bad input: {error}")
"""


def joining(number, of, port, timeout_s):
    """A process that joins others. JAX reads the number of process 0 from Slurm's variables; others get flags."""
    job = {"JOB_ID": port - 61440, "STEP_NODELIST": "localhost", "NTASKS": of, "PROCID": number, "LOCALID": 0}
    env = {} if number else {f"SLURM_{name}": str(value) for name, value in job.items()}
    flags = [f"localhost:{port}", of, number] if number else []
    return popen(["-c", JOIN, json.dumps(flags), timeout_s], 1, **env)


def free_slurm_port():
    """JAX takes one of the last 4096, by the number of the job."""
    for port in range(65535, 61439, -1):
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port


def test_a_missing_process_is_named_and_jax_aborts_nobody():
    """Until then those that wait say so. With all there, they join."""
    port = free_slurm_port()
    for code, out, err in finish([joining(i, 3, port, timeout_s) for i, timeout_s in ((0, 6), (2, 60))]):
        *waiting, last = err.splitlines()
        assert (code, out) == (1, "")
        assert last.startswith(f"bad input: 1 of 3 processes (1) did not join at localhost:{port} within 6 s")
        assert any("waiting for 1 of 3 processes (1) to join" in line for line in waiting)
        assert all(line.startswith("waiting for ") for line in waiting)
    for i, (code, out, err) in enumerate(finish([joining(i, 2, port, 60) for i in range(2)])):
        assert code == 0, err
        assert out == f"igpt[{i}]\n"


def test_without_a_cluster_there_is_one_process_and_no_message():
    assert finish([popen(["-c", JOIN, "[]", 60], 1)]) == [(0, "igpt\n", "")]
