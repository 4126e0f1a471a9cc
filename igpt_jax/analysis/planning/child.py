"""Calls in a process of their own: a library that crashes ends that process alone, and what it prints is not seen."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from igpt_jax.errors import InputError
from igpt_jax.plugins import load_module

T = TypeVar("T")

LOGGER = logging.getLogger("igpt_jax")


class CrashError(RuntimeError):
    """The child process ended without an answer. The message says how, and the library's last message, if any."""


def run_in_child(function: Callable[..., T], *args: Any, plugins: Sequence[str | Path] = ()) -> T:
    """Calls a function in a new process, in which the plugins were run before, and returns what it returns.

    Function, arguments and result are pickled. What the loggers of igpt_jax say in the child, the same loggers say
    here; everything else that the child prints is dropped. The child ends with this process, however that ends.

    Raises:
      InputError: the function or a plugin raised it.
      CrashError: the child ended without an answer.
      RuntimeError: the function raised another exception; the message is its traceback.
    """
    command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    job = pickle.dumps((LOGGER.getEffectiveLevel(), [str(path) for path in plugins], function, args))
    pipes: Any = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    # In a session of its own, the child does not get the terminal's Ctrl-C: this process ends it.
    with contextlib.ExitStack() as stack:
        noise = stack.enter_context(tempfile.TemporaryFile())
        try:
            started = subprocess.Popen(command, env=environment, stderr=noise, start_new_session=True, **pipes)
        except OSError as error:
            raise CrashError(f"a child process cannot start: {error}") from None
        child = stack.enter_context(started)
        assert child.stdin
        assert child.stdout
        try:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(job)
            with open(child.stdout.fileno(), "rb", closefd=False) as answers:
                return _answer(answers)
        except (EOFError, pickle.UnpicklingError):
            code = child.wait()
            noise.seek(0)
            raise CrashError(how_it_ended(code, noise.read().decode(errors="replace"))) from None
        finally:
            child.kill()


def _answer(answers: Any) -> Any:
    """Repeats the child's log lines until its answer comes."""
    while True:
        kind, value = pickle.load(answers)
        if kind == "log":
            name, level, message = value
            logging.getLogger(name).log(level, "%s", message)
        elif kind == "result":
            return value
        else:
            raise {"refusal": InputError, "memory": MemoryError}.get(kind, RuntimeError)(value)


def how_it_ended(code: int, noise: str) -> str:
    """One line on how a process ended: the signal or the exit code, and the message of a failed check.

    Args:
      code: as `subprocess` gives it, negative for a signal.
      noise: what the process wrote on stderr.
    """
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        how += ", perhaps for lack of memory"
    fatal = re.search(r"^F\d{4} .*?\] (.+)$", noise, re.MULTILINE)
    said = fatal[1] if fatal else next(iter(noise.splitlines()[-1:] if code > 0 else ()), "")
    return f"{how}: {said.strip()[:200]}" if said else how


def serve() -> None:
    """What the child runs: reads its job from stdin, and writes log lines and one answer to stdout."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer

    def send(kind: str, value: Any) -> None:
        answers.write(pickle.dumps((kind, value)))
        answers.flush()

    try:
        level, plugins, function, args = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        LOGGER.setLevel(level)
        LOGGER.addHandler(_Sender(send))
        for path in plugins:
            load_module(path)
        answer = "result", function(*args)
    except InputError as error:
        answer = "refusal", str(error)
    except MemoryError as error:
        answer = "memory", str(error)
    except Exception:
        answer = "error", traceback.format_exc()
    send(*answer)


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the parent's end of the pipe is closed
    os._exit(1)


class _Sender(logging.Handler):
    def __init__(self, send: Callable[[str, Any], None]) -> None:
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        self.send("log", (record.name, record.levelno, record.getMessage()))
