"""A run that hangs ends, in a process of its own; several processes: tests/test_processes.py."""

import os
import subprocess
import sys

CODE = """
import sys, time
from igpt_jax.training.watchdog import Watchdog
def stuck():
    time.sleep(60)
with Watchdog(0.5) as watchdog:
    for step in range(3):
        watchdog.reset(f"training step {step}")
        time.sleep(0.3)
    stuck()
"""


def test_a_hang_ends_the_run_with_the_stacks():
    """A step that never ends, after three of 0.3 s that did, with 0.5 s for each."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=30)
    assert done.returncode == 75
    assert "no progress for 1 s while training step 2" in done.stderr
    assert "in stuck" in done.stderr


def test_a_hang_in_writing_ends_too():
    """Into a pipe that nobody reads, with the lock of stdout's buffer held."""
    code = CODE.replace("time.sleep(60)", "print('x' * 10**6)")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code], env=env, **pipes) as process:
        try:
            assert process.wait(20) == 75
        finally:
            process.kill()
