"""What a workdir is written on: a disk that fills up, one that is read-only; and the compilation cache in it."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.processes import ARGS, finish, flags, lines, popen
from tests.small_run import state_bytes
from tests.test_layering import ROOT

STEPS = 8
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
    """A run that saves after every step and keeps all checkpoints; a disk of 1000 KB holds three or four."""
    return ["-m", "tests.chaos.victim", workdir, STEPS, 10**6]


@pytest.fixture(scope="module")
def on_large_disk(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("large") / "run"
    [(code, _, err)] = finish([popen(command(workdir), 1)])
    assert code == 0, err
    return workdir


def whole(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_a_full_disk_costs_nothing_that_was_saved(can_mount, on_large_disk, tmp_path):
    """Every checkpoint before is intact; with room, the same command continues to the same end."""
    at, out = tmp_path / "at", tmp_path / "out"
    at.mkdir()
    out.mkdir()
    done = mounted("-t tmpfs -o size=1000k none", at, out, sys.executable, *command(at))
    assert done.returncode == 1, done.stderr
    [last] = [line for line in done.stderr.splitlines() if line.startswith("igpt_jax.errors.InputError")]
    assert "a checkpoint could not be written (No space left on device)" in last
    saved = whole(out)
    assert saved
    assert saved[-1] < STEPS
    for step in saved:
        assert state_bytes(out, step) == state_bytes(on_large_disk, step)
    [(code, _, err)] = finish([popen(command(out), 1)])
    assert code == 0, err
    assert f"continuing from step {saved[-1]}" in err
    assert state_bytes(out, STEPS) == state_bytes(on_large_disk, STEPS)
    assert lines(out) == lines(on_large_disk)


READ_ONLY = """
import sys
from igpt_jax.cli import main
args, workdir, out = sys.argv[1:-2], *sys.argv[-2:]
codes = [main([*args, "--workdir", path]) for path in (workdir, workdir + "/new")]
codes.append(main(["sample", "--model", workdir, "-n", "2", "--out", out]))
print(*codes, file=sys.stderr)
"""


def test_a_read_only_workdir_is_read_and_not_written(can_mount, straight, tmp_path):
    """Another run there and a new one in it are refused in one line each; pictures can be drawn from it."""
    workdir = shutil.copytree(straight, tmp_path / "run")
    commands = [sys.executable, "-c", READ_ONLY, *ARGS, workdir, tmp_path / "two.png"]
    done = mounted(f"--bind -o ro {workdir}", workdir, tmp_path / "out", *commands)
    assert done.stderr.splitlines()[-1] == "2 2 0", done.stderr
    assert "holds another run" in done.stderr
    assert f"workdir {workdir}/new: Read-only file system; name a directory that can be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "two.png").stat().st_size > 100
    assert state_bytes(workdir, 10) == state_bytes(straight, 10)


def test_compiled_programs_are_kept_in_the_workdir(tmp_path):
    """Unless JAX was told where. The second start compiles no train step."""
    names = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    env = {key: value for key, value in os.environ.items() if key not in names}
    env |= {"PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XLA_FLAGS": flags(1)}
    cached = []
    for steps in ("3", "5"):
        line = [sys.executable, "-m", "tests.chaos.victim", tmp_path / "run", steps, "9"]
        done = subprocess.run([*map(str, line)], capture_output=True, text=True, env=env, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        cached.append({p.name for p in (tmp_path / "run" / "compiled").glob("*-cache")})
    assert len(cached[0]) > 3
    assert any("train_step" in name for name in cached[0])
    assert not any("train_step" in name for name in cached[1] - cached[0]), cached[1] - cached[0]


def test_nothing_is_kept_where_jax_was_told_another_place(on_large_disk):
    assert not (on_large_disk / "compiled").exists()
