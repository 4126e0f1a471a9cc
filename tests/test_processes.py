"""Real processes on loopback: the run is the same however many there are, and they stop together.

Most of it is one session of two processes (tests/session.py). What takes minutes is in tests/chaos.
"""

import contextlib
import dataclasses
import hashlib
import re
import signal
import socket
import time

import numpy as np
import pytest
from PIL import Image

from igpt_jax import load_pretrained, sample
from igpt_jax.cli import main
from igpt_jax.datasets import open_data
from igpt_jax.parallel.mesh import make_mesh, put_batch, to_host
from igpt_jax.run import Report
from tests.processes import ARGS, RUN, continue_args, finish, free_port, lines, named_by_jax, popen, wait_for
from tests.small_run import CFG
from tests.test_layering import ROOT

pytestmark = pytest.mark.timeout(600)  # compiling in several processes on few cores


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """(folder, [(exit code, what tests/session.py said, stderr, stdout) of each process]).

    Two processes with four devices each. While they train, the second one gets SIGTERM, and later SIGKILL. Process 0
    knows its number from Slurm's variables, the other one from arguments.
    """
    folder, port = tmp_path_factory.mktemp("session"), free_slurm_port()
    (folder / "holiday").mkdir()
    (folder / "holiday" / "beach.jpg").write_bytes(b"x")
    for i in range(2):
        (folder / str(i)).mkdir()
        Image.fromarray(np.full((8, 8), 100 * i, np.uint8)).save(folder / str(i) / "photo.png")
    (folder / "0" / "experiments").symlink_to(ROOT / "experiments")
    env = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    job = {"JOB_ID": port - 61440, "STEP_NODELIST": "localhost", "NTASKS": 2, "PROCID": 0, "LOCALID": 0}
    slurm = {f"SLURM_{name}": str(value) for name, value in job.items()}
    running = [
        popen(["-m", "tests.session", 0, folder], 4, **env, **slurm),
        popen(["-m", "tests.session", 1, folder, f"localhost:{port}"], 4, **env),
    ]
    for workdir, signum in (("endless", signal.SIGTERM), ("killed", signal.SIGKILL)):
        wait_for(folder / workdir / "metrics.jsonl", running)
        running[1].send_signal(signum)
    killed_at = time.monotonic()
    done = finish(running)
    assert time.monotonic() - killed_at < 60
    return folder, [(code, re.findall(r">> (.*)", out), err, out) for code, out, err in done]


def test_they_agree_on_values_and_errors_and_a_barrier_says_who_is_late(session):
    for i, (_, said, _, _) in enumerate(session[1]):
        kind = ["InputError", "InputErrorElsewhere"][i]
        assert said[:3] == ["from process 0 [0, 'x']", "any True False", "the same"]
        assert said[3] == f"{kind} the value: not the same on process 0 and on 1 of 2"
        assert said[4] == ["InputErrorElsewhere process 1 reports the error", "InputError only here"][i]
        assert f"lost {[[1], []][i]}" in said  # when the late one comes, all have come


def test_every_global_batch_is_the_same_on_any_number_of_processes(session):
    """By sha256 of the whole batch as each process sees it; also where processes share rows (tensor over all)."""
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
def train_alone():
    """`igpt train` in this process, without the pictures and cheap methods at its end."""

    def train(workdir, *more):
        assert main([*map(str, [*ARGS, *more]), "--workdir", str(workdir)]) == 0
        return workdir

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("igpt_jax.analysis.beside.beside", lambda figures, context: figures)
        patch.setattr("igpt_jax.run.report", lambda trained, levels: Report(trained.step, ()))
        yield train


@pytest.fixture(scope="module")
def alone(tmp_path_factory, train_alone):
    """The same run in one process with the same eight devices."""
    return train_alone(tmp_path_factory.mktemp("alone") / "run")


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


def test_a_signal_to_one_process_saves_all_and_another_number_continues(session, train_alone, tmp_path):
    """The second of two got SIGTERM; then one process continues. The losses are those of the run never stopped."""
    folder, done = session
    assert all("stopped 143" in said for _, said, _, _ in done)
    [step] = {int(re.search(r"saved at step (\d+)", err)[1]) for _, _, err, _ in done}
    assert (folder / "endless" / "checkpoints" / str(step)).is_dir()
    for workdir in (folder / "endless", tmp_path / "straight"):
        train_alone(workdir, *continue_args(step + 2))
    for a, b in zip(lines(folder / "endless"), lines(tmp_path / "straight"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_when_one_is_killed_the_other_says_so_and_ends(session):
    (code, _, err, _), (killed, *_) = session[1]
    assert killed == -signal.SIGKILL
    assert code in (75, -signal.SIGABRT), err  # the latter if JAX's own watch is first
    assert 1 in named_by_jax(err) or "lost process 1 of 2" in err, err


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


def test_the_command_line_gives_up_with_code_75_where_nobody_answers():
    flags = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2, "--process-id", 1]
    [(code, out, err)] = finish([popen(["-c", RUN, *ARGS, *flags, "--join-timeout-s", 1], 1)])
    assert (code, out) == (75, "")
    assert re.fullmatch("igpt.*: coordinator .* cannot be reached .*\n", err)


def free_slurm_port():
    """JAX takes one of the last 4096, by the number of the job."""
    for port in range(65535, 61439, -1):
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
