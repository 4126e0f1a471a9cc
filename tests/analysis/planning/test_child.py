"""Calls in a child process: answers, refusals and log lines arrive, crashes are one line, and nothing stays behind."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from igpt_jax.analysis.planning.child import CrashError, how_it_ended, run_in_child
from igpt_jax.config import Config, MeshConfig
from igpt_jax.errors import InputError
from tests.processes import HEARD

FATAL = "F1125 01:46:35.699818    5603 target.cc:1735] Check failed: chip_bounds().z == 1 (4 vs. 1) \n"
STACK = "*** Check failure stack trace: ***\n    @     0x7f2480e9bc54  absl::log_internal::LogMessage::SendToLog()\n"


def answer(kind, *rest):
    """What the child does in these tests."""
    os.write(1, b"printed by a library\n")
    os.write(2, b"W0000 a warning of a library\n")
    if kind == "fail":
        raise KeyError("unforeseen")
    if kind == "log":
        logging.getLogger("igpt_jax.analysis.planning.suggest").info("trying %s", "--compute.remat full")
        logging.getLogger("igpt_jax.analysis.planning.suggest").debug("not asked for")
    if kind == "abort":
        os.write(2, (FATAL + STACK).encode())
        os.abort()
    if kind == "wait":
        Path(rest[0]).write_text(str(os.getpid()))
        time.sleep(60)
    return os.getpid(), Config(mesh=MeshConfig(2, 1, 1)), rest


def test_the_answer_and_the_log_lines_come_from_another_process_and_its_noise_does_not(capfd, caplog):
    with caplog.at_level(logging.INFO, "igpt_jax"):
        pid, cfg, rest = run_in_child(answer, "log", 3)
    assert pid != os.getpid()
    assert cfg.mesh == MeshConfig(2, 1, 1)
    assert rest == (3,)
    assert capfd.readouterr() == ("", "")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("igpt_jax.analysis.planning.suggest", "trying --compute.remat full")
    ]


def test_a_refusal_is_a_refusal_and_another_error_has_its_traceback(tmp_path):
    (tmp_path / "plugin.py").write_text("from igpt_jax.errors import InputError\nraise InputError('--key: no')\n")
    with pytest.raises(InputError, match=r"^--key: no$"):
        run_in_child(answer, "wait", plugins=[tmp_path / "plugin.py"])  # plugins run before
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*KeyError: 'unforeseen'"):
        run_in_child(answer, "fail")


def test_a_crash_is_one_line_with_the_check_that_failed(capfd):
    with pytest.raises(CrashError, match=r"^SIGABRT: Check failed: chip_bounds\(\)\.z == 1 \(4 vs\. 1\)$"):
        run_in_child(answer, "abort")
    assert capfd.readouterr() == ("", "")


def test_how_it_ended():
    assert how_it_ended(-signal.SIGSEGV, "noise\n") == "SIGSEGV"
    assert how_it_ended(-signal.SIGKILL, "") == "SIGKILL, perhaps for lack of memory"
    assert how_it_ended(3, "") == "exit code 3"
    assert how_it_ended(7, "one\nW0000 a warning\n") == "exit code 7: W0000 a warning"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_child_ends_with_its_parent(how, tmp_path):
    file = tmp_path / "pid"
    code = (
        f"{HEARD}import sys; from igpt_jax.analysis.planning.child import run_in_child\n"
        "from tests.analysis.planning.test_child import answer\n"
        "try: run_in_child(answer, 'wait', sys.argv[1])\nexcept KeyboardInterrupt: sys.exit(130)"
    )
    command, env = [sys.executable, "-c", code, str(file)], os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (file.exists() and file.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    child = int(file.read_text())
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)  # as a terminal does
    else:
        parent.send_signal(how)
    try:
        _, stderr = parent.communicate(timeout=20)
    finally:
        parent.kill()
    assert parent.returncode == (130 if how == signal.SIGINT else -how)
    assert stderr == ""
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def alive(pid):
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def crash(*args, plugins):
    """In place of `run_in_child`."""
    raise CrashError("SIGABRT: Check failed")


def test_a_crash_of_the_compiler_names_the_topology_and_the_way_out(monkeypatch):
    from igpt_jax.analysis.planning import make  # here: it takes seconds to import, and every child imports this file

    monkeypatch.setattr(make, "check_topology", lambda topology, slices: None)
    monkeypatch.setattr(make, "run_in_child", crash)
    with pytest.raises(InputError) as error:
        make.make_plan_in_child(Config(), "tpu7x:2x2x1", 1, False, True)
    assert str(error.value) == (
        "topology tpu7x:2x2x1: the compiler crashed on this program (SIGABRT: Check failed); "
        "a model of another size, or another topology, may work"
    )


def test_flags_that_a_compiler_refuses_are_answered_with_those_it_takes(monkeypatch):
    import jax  # here, as above

    from igpt_jax.analysis.planning import make

    def refuse(cfg, target):
        raise jax.errors.JaxRuntimeError("Please disable it with xla_tpu_enable_async_collective_fusion=false")

    monkeypatch.setattr(make, "describe", lambda topology, slices: None)
    monkeypatch.setattr(make, "plan_training", refuse)
    with pytest.raises(InputError, match="export LIBTPU_INIT_ARGS='--xla_tpu_overlap_compute_collective_tc=true "):
        make.make_plan(Config(), "v5p:2x2x1", 1, False, False)
