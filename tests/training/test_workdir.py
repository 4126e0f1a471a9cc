"""What a workdir is written on: a disk that fills up, one that is read-only; and the compilation cache in it."""

import os
import shutil
import subprocess
import sys

import pytest

from igpt_jax.run import train
from tests.chaos.victim import config
from tests.processes import ARGS, flags, lines
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
    env = os.environ | {"PYTHONPATH": str(ROOT), "COPIED": str(workdir), "OUT": str(out)}
    line = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTED, "sh", how, workdir, *command]
    return subprocess.run([*map(str, line)], capture_output=True, text=True, env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def can_mount(tmp_path_factory):
    at, out = tmp_path_factory.mktemp("at"), tmp_path_factory.mktemp("out")
    if not shutil.which("unshare") or mounted("-t tmpfs none", at, out, "true").returncode:
        pytest.skip("no mounts in a namespace of one's own here")


OFTEN = config(STEPS, keep=10**6)
"""Saves after every step; a disk of 2100 KB holds four or five, and the lines of the metrics up to step 4."""


@pytest.fixture(scope="module")
def on_large_disk(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("large") / "run"
    train(OFTEN, workdir)
    return workdir


def whole(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_a_full_disk_costs_nothing_that_was_saved(can_mount, on_large_disk, tmp_path, caplog):
    """Every checkpoint before is intact; with room, the same run continues to the same end."""
    caplog.set_level("INFO", "igpt_jax")
    at, out = tmp_path / "at", tmp_path / "out"
    at.mkdir()
    out.mkdir()
    command = [sys.executable, "-m", "tests.chaos.victim", at, STEPS, 10**6]
    done = mounted("-t tmpfs -o size=2100k none", at, out, *command)
    assert done.returncode == 1, done.stderr
    [last] = [line for line in done.stderr.splitlines() if line.startswith("igpt_jax.errors.InputError")]
    assert "a checkpoint could not be written (No space left on device)" in last
    saved = whole(out)
    assert saved
    assert saved[-1] < STEPS
    for step in saved:
        assert state_bytes(out, step) == state_bytes(on_large_disk, step)
    assert train(OFTEN, out).step == STEPS
    assert f"continuing from step {saved[-1]}" in caplog.text
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


TWO_STARTS = """
import sys
from pathlib import Path
import jax
from tests.chaos.victim import main
for steps in ("3", "5"):
    jax.clear_caches()  # as a process that has compiled nothing
    main(sys.argv[1], steps, "9")
    print("", *(path.name for path in Path(sys.argv[1], "compiled").glob("*-cache")))
"""


def test_compiled_programs_are_kept_in_the_workdir(tmp_path):
    """Unless JAX was told where. The second start compiles no train step."""
    names = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    env = {key: value for key, value in os.environ.items() if key not in names}
    env |= {"PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XLA_FLAGS": flags(1)}
    line = [sys.executable, "-c", TWO_STARTS, str(tmp_path / "run")]
    done = subprocess.run(line, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    first, second = (set(line.split()) for line in done.stdout.splitlines() if line.startswith(" "))
    assert len(first) > 3
    assert any("train_step" in name for name in first)
    assert not any("train_step" in name for name in second - first), second - first


def test_nothing_is_kept_where_jax_was_told_another_place(on_large_disk):
    assert not (on_large_disk / "compiled").exists()
