"""Results go to stdout whatever stderr is; streams that are closed, full or narrow are one line, and lose no figure."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from igpt_jax import progress
from igpt_jax.cli import progress as shown
from igpt_jax.cli import streams

RUN = [sys.executable, "-c", "from igpt_jax.cli import run_and_exit; run_and_exit()"]


def test_bars_on_a_terminal_leave_stdout_alone(monkeypatch, capsys):
    monkeypatch.setattr(shown, "CONSOLE", Console(stderr=True, force_terminal=True))
    with shown.show_progress(quiet=False):
        progress.report("drawing", 0, 2)
        print("result")
    out, err = capsys.readouterr()
    assert out == "result\n"
    assert "drawing" in err


@pytest.mark.parametrize(
    ("redirection", "code", "line"),
    [
        (">&-", 2, "stdout is closed"),
        (">/dev/full", 1, "stdout: No space left on device"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
    ],
)
def test_a_stream_that_takes_nothing_is_one_line(redirection, code, line):
    done = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", *RUN, "--version"], capture_output=True, text=True)
    assert done.returncode == code
    assert line in done.stderr
    assert done.stderr.count("\n") == bool(line)
    assert done.stdout.startswith("igpt_jax ") == (code == 0)


def test_a_closed_pipe_is_no_traceback():
    with subprocess.Popen([*RUN, "train", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == streams.SIGPIPE_CODE


def test_narrow_encodings_get_ascii_and_messages_may_be_lost(monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    streams.guard()
    reader, writer = os.pipe()
    stream = streams._Stream(writer, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    stream.write("0.5 ± 0.1 in Zürich")
    stream.flush()
    assert os.read(reader, 99) == rb"0.5 +- 0.1 in Z\xfcrich"
    os.close(reader)
    stream.write("nobody reads this")
    stream.flush()
    os.close(writer)


def test_words_are_parsed_alike_without_asserts():
    """tyro pops a registry inside an assert."""
    code = (
        "from igpt_jax.cli.parse import parse; from igpt_jax.cli.train import Train\n"
        "kinds = [type(parse(Train, 'train', ['digits'], checked=checked).config) for checked in (False, True)]\n"
        "print(*(kind.__name__ for kind in kinds))"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True)
    assert done.stdout == "dict Config\n", done.stderr
