"""Signals, as a shell delivers them to a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import DIGITS
from tests.processes import HEARD, flags
from tests.test_layering import ROOT

ENV = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "XLA_FLAGS": flags(1)}


def start(code, *words):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", HEARD + code, *map(str, words)], env=ENV, **pipes)


@pytest.fixture
def igpt():
    """Starts a command; what still runs at the end is killed."""
    started = []
    with contextlib.ExitStack() as stack:

        def run(*words):
            started.append(stack.enter_context(start("from igpt_jax.cli import run_and_exit; run_and_exit()", *words)))
            return started[-1]

        yield run
        for process in started:
            process.kill()


@pytest.mark.parametrize("after", [0.4, 1.0, 2.0])
def test_ctrl_c_in_the_first_seconds_is_one_line(igpt, tmp_path, after):
    """While modules are imported, devices opened and programs compiled: no traceback, no crash, never swallowed."""
    process = igpt(
        "palette", "digits", "--channels", "1", "--colors", "16", "--out", tmp_path / "p", "--size", "200", "200"
    )
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done before the signal came")
    assert process.returncode == 130
    assert err.split() == ["igpt:", "interrupted"]
    assert time.monotonic() - sent < 10


def test_ctrl_c_in_a_compiled_program_is_answered_at_once(igpt, tmp_path):
    """Python's own handlers would wait until the program is done."""
    (tmp_path / "endless.py").write_text(
        "import jax, jax.numpy as jnp\n"
        "x = jnp.ones((64, 64))\n"
        "f = jax.jit(lambda x: jax.lax.fori_loop(0, 10**9, lambda i, x: x @ x / 64, x)).lower(x).compile()\n"
        "print('ready', flush=True); f(x).block_until_ready()\n"
    )
    process = igpt("train", tmp_path / "endless.py")
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    assert process.stderr.readline() + process.stderr.readline() == "\nigpt: interrupted\n"
    assert time.monotonic() - sent < 2
    assert process.wait(timeout=30) == 130


def test_a_run_says_at_once_that_it_will_be_saved(igpt, tmp_path):
    words = "--tiny --train.steps 1000000 --train.eval-every 1000000 --train.sample-every 0 --train.log-every 1"
    process = igpt("train", DIGITS, *words.split(), "--workdir", tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "SIGINT: the run is saved after this step" in err
    assert "saved at step" in err
    assert "Traceback" not in err


def test_ctrl_c_while_the_loop_is_imported_is_one_line():
    """The thread that answers must not rely on a module that another thread is still importing."""
    code = (
        "import sys, time, types\n"
        "from igpt_jax.cli.interrupts import acknowledge_signals, wait_for_acknowledgement\n"
        "sys.modules['igpt_jax.training.loop'] = types.ModuleType('igpt_jax.training.loop')\n"
        "acknowledge_signals()\n"
        "try: print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: wait_for_acknowledgement(); time.sleep(5)\n"
    )
    with start(code) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert err.split() == ["igpt:", "interrupted"]
    assert process.returncode == 130
