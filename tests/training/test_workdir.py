"""What a workdir is written on: a disk that fills up, one that is read-only; and the compilation cache in it."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.processes import ARGS, finish, flags, lines, popen
from tests.small_run import state_bytes
from tests.test_layering import ROOT

STEPS = 6
MOUNTED = """
set -e
mount $1 "$2"; shift 2
code=0; "$@" || code=$?
cp -a "$COPIED/." "$OUT" 2> /dev/null || true
exit $code
"""


def mounted(how, workdir, out, *command):
    """Runs a command while a file system of its own is mounted at a directory; `out` is a copy of it afterwards."""
    env = {"PYTHONPATH": str(ROOT), "COPIED": str(workdir), "OUT": str(out)}
    env = os.environ | {"XLA_FLAGS": flags(1)} | env
    line = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTED, "sh", how, workdir, *command]
    return subprocess.run([*map(str, line)], capture_output=True, text=True, env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def can_mount(tmp_path_factory):
    at, out = tmp_path_factory.mktemp("at"), tmp_path_factory.mktemp("out")
    if not shutil.which("unshare") or mounted("-t tmpfs none", at, out, "true").returncode:
        pytest.skip("no mounts in a namespace of one's own here")


def command(workdir):
    """A run without its report that saves after every step and keeps all checkpoints."""
    return ["-m", "tests.chaos.victim", workdir, STEPS, 10**6]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that was started twice, and the names of the compiled programs that it kept each time."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XLA_FLAGS": flags(1)}
    cached = []
    for steps in (3, STEPS):
        line = [sys.executable, "-m", "tests.chaos.victim", workdir, steps, 10**6]
        done = subprocess.run([*map(str, line)], capture_output=True, text=True, env=env, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        cached.append({path.name for path in (workdir / "compiled").glob("*-cache")})
    return workdir, cached


def whole(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_a_full_disk_costs_nothing_that_was_saved(can_mount, straight, tmp_path):
    """Every checkpoint before is intact; with room, the same command continues to the same end."""
    straight, _ = straight
    at, out = tmp_path / "at", tmp_path / "out"
    at.mkdir()
    out.mkdir()
    done = mounted("-t tmpfs -o size=600k none", at, out, sys.executable, *command(at))
    assert done.returncode == 1, done.stderr
    *_, last = [line for line in done.stderr.splitlines() if line.startswith("igpt_jax.errors.InputError")]
    assert "could not be written (No space left on device)" in last  # a checkpoint or the metrics
    saved = whole(out)
    assert saved
    assert saved[-1] < STEPS
    for step in saved:
        assert state_bytes(out, step) == state_bytes(straight, step)
    [(code, _, err)] = finish([popen(command(out), 1)])
    assert code == 0, err
    assert f"continuing from step {saved[-1]}" in err
    assert state_bytes(out, STEPS) == state_bytes(straight, STEPS)
    assert lines(out) == [line for line in lines(straight) if line["step"] != 3]  # where it ended at first
    assert not (out / "compiled").exists()  # JAX was told another place


READ = """
import sys
from igpt_jax.cli import main
workdir, picture, *train = sys.argv[1:]
codes = [main([*train, "--workdir", path]) for path in (workdir, f"{workdir}/new")]
sys.exit(codes != [2, 2] or main(["sample", "--model", workdir, "-n", "2", "--out", picture]))
"""


def test_a_read_only_workdir_is_read_and_not_written(can_mount, copy_of_run, tmp_path):
    """A new run and one to be continued are one line each; pictures can be drawn from it."""
    before, picture = state_bytes(copy_of_run, 10), tmp_path / "two.png"
    igpt = [sys.executable, "-c", READ, copy_of_run, picture, *ARGS]
    done = mounted(f"--bind -o ro {copy_of_run}", copy_of_run, tmp_path / "out", *igpt)
    assert done.returncode == 0, done.stderr
    # the other is of another configuration, so it is refused for that
    assert f"workdir {copy_of_run}/new: Read-only file system; name a directory that can be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert picture.stat().st_size > 100
    assert state_bytes(copy_of_run, 10) == before


def test_compiled_programs_are_kept_in_the_workdir(straight):
    """Unless JAX was told where. The second start compiles no train step."""
    _, cached = straight
    assert len(cached[0]) > 3
    assert any("train_step" in name for name in cached[0])
    assert not any("train_step" in name for name in cached[1] - cached[0]), cached[1] - cached[0]
