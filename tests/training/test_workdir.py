"""What a workdir is written on: a disk that fills up, one that is read-only; and the compilations kept in it."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.processes import ARGS, RUN, finish, flags, lines, start
from tests.test_layering import ROOT
from tests.training.test_resume import state_bytes

OFTEN = ["--train.steps", "30", "--train.checkpoint-every", "1", "--train.keep", "1000", "--train.eval-every", "30"]

MOUNTED = """
set -e
mount $1 "$2"; shift 2
code=0; "$@" || code=$?
cp -a "$COPIED/." "$OUT" 2> /dev/null || true
exit $code
"""


def mounted(how, workdir, out, *command):
    """Runs a command while a file system of its own lies at a directory, of which `out` is a copy afterwards."""
    env = {"PYTHONPATH": str(ROOT), "COPIED": str(workdir), "OUT": str(out)}
    env = os.environ | {"XLA_FLAGS": flags(1)} | env
    line = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTED, "sh", how, workdir, *command]
    return subprocess.run([*map(str, line)], capture_output=True, text=True, env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def can_mount(tmp_path_factory):
    at, out = tmp_path_factory.mktemp("at"), tmp_path_factory.mktemp("out")
    if not shutil.which("unshare") or mounted("-t tmpfs none", at, out, "true").returncode:
        pytest.skip("no mounts in a namespace of one's own here")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight") / "run"
    [(code, _, err)] = finish(start(workdir, 1, 1, *OFTEN))
    assert code == 0, err
    return workdir


def whole(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_a_full_disk_costs_nothing_that_was_saved(can_mount, straight, tmp_path):
    """One line, exit code 2; every checkpoint before is intact; with room, the same command goes on to the same end."""
    at, out = tmp_path / "at", tmp_path / "out"
    at.mkdir()
    out.mkdir()
    train = [sys.executable, "-c", RUN, *ARGS, "--workdir", at, *OFTEN]
    done = mounted("-t tmpfs -o size=2000k none", at, out, *train)
    assert done.returncode == 2, done.stderr
    [said] = [line for line in done.stderr.splitlines() if line.startswith("igpt: workdir")]
    assert "a checkpoint could not be written (No space left on device)" in said
    assert "igpt_jax/" not in done.stderr  # no traceback of ours
    saved = whole(out)
    assert saved
    assert saved[-1] < 30
    for step in saved:
        assert state_bytes(out, step) == state_bytes(straight, step)
    [(code, _, err)] = finish(start(out, 1, 1, *OFTEN))
    assert code == 0, err
    assert f"continuing from step {saved[-1]}" in err
    assert state_bytes(out, 30) == state_bytes(straight, 30)
    assert lines(out) == lines(straight)


def test_a_read_only_workdir_is_read_and_not_written(can_mount, straight, tmp_path):
    """A new run and one to be continued are one line each; pictures can be drawn from it."""
    workdir = shutil.copytree(straight, tmp_path / "run")
    read_only = f"--bind -o ro {workdir}"
    more = [sys.executable, "-c", RUN, *ARGS, *OFTEN, "--train.steps", "32", "--workdir"]
    for path in (workdir, workdir / "new"):
        done = mounted(read_only, workdir, tmp_path / "out", *more, path)
        assert done.returncode == 2, done.stderr
        assert f"workdir {path}: Read-only file system; name a directory that can be written" in done.stderr
        assert "Traceback" not in done.stderr
    sample = [sys.executable, "-c", RUN, "sample", "--model", workdir, "-n", "2", "--out", tmp_path / "two.png"]
    done = mounted(read_only, workdir, tmp_path / "out", *sample)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.png").stat().st_size > 100
    assert state_bytes(workdir, 30) == state_bytes(straight, 30)


def test_compilations_are_kept_in_the_workdir(straight, tmp_path):
    """Unless JAX was told where. The second start compiles nothing anew."""
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    found = []
    for steps in ("3", "5"):
        command = [sys.executable, "-c", RUN, *ARGS, "--workdir", tmp_path / "run", "--train.steps", steps]
        command += ["--optim.schedule", "constant"]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=env, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        found.append({p.name for p in (tmp_path / "run" / "compiled").glob("*-cache")})
    assert len(found[0]) > 3
    assert not any("train_step" in name for name in found[1] - found[0]), found[1] - found[0]
    assert any("train_step" in name for name in found[0])
    assert not (straight / "compiled").exists()  # the suite has told JAX of another place
