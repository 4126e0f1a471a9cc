"""What is printed on stdout arrives, whatever the terminals are; or a line says why not."""

import os
import pty
import subprocess
import sys

import pytest

from tests.test_layering import ROOT


def run(program, **streams):
    """A program that prints results through the command line's stdout, with a progress bar on stderr."""
    code = f"import igpt_jax.cli as cli; from igpt_jax.cli.progress import show_progress\n{program}\ncli.run_and_exit()"
    env = os.environ | {"PYTHONPATH": str(ROOT)} | streams.pop("env", {})
    return subprocess.Popen([sys.executable, "-c", code], env=env, **streams)


PRINTS = "cli.main = lambda: print('0.5 ± 0.1') or 0"


@pytest.mark.parametrize("force", [{}, {"FORCE_COLOR": "1"}])
def test_results_arrive_where_stderr_is_a_terminal(force):
    main, side = pty.openpty()
    bars = "def main():\n    with show_progress(False): print('0.5 ± 0.1')\n    return 0\ncli.main = main"
    process = run(bars, stdin=side, stderr=side, stdout=subprocess.PIPE, env=force)
    os.close(side)
    assert process.communicate(timeout=60)[0].decode() == "0.5 ± 0.1\n"
    os.close(main)


def test_a_narrow_encoding_loses_no_figure():
    done = run(PRINTS, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"})
    assert done.communicate(timeout=60)[0] == b"0.5 +- 0.1\n"


def test_a_full_disk_sends_the_results_to_stderr():
    with open("/dev/full", "w") as full:
        process = run(PRINTS, stdout=full, stderr=subprocess.PIPE)
        assert process.communicate(timeout=60)[1].decode() == (
            "igpt: stdout: No space left on device; the results follow here\n0.5 ± 0.1\n"
        )
    assert process.returncode == 1


def test_a_stdout_that_is_closed_early_or_from_the_start_has_its_exit_code():
    reader, writer = os.pipe()
    os.close(reader)
    early = run(PRINTS, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (early.communicate(timeout=60)[1], early.returncode) == (b"", 141)
    command = ["sh", "-c", 'exec "$0" -m igpt_jax --version >&-', sys.executable]
    closed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (closed.returncode, closed.stderr.count("\n")) == (2, 1)
    assert "stdout is closed" in closed.stderr
