"""Calls in a process of their own: a library that crashes ends that process alone, and what it prints is not seen."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from logging.handlers import QueueHandler
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

    Function, arguments and result are pickled. The child's log lines of igpt_jax are logged here; everything else that
    it prints is dropped. The child ends with this process, however that ends.

    Raises:
      InputError, MemoryError: the function or a plugin raised it.
      CrashError: the child ended without an answer.
      RuntimeError: the function raised another exception; the message is its traceback.
    """
    command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes: Any = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    # In a session of its own, the child does not get the terminal's Ctrl-C: this process ends it.
    with (
        tempfile.TemporaryFile() as noise,
        subprocess.Popen(command, env=environment, stderr=noise, start_new_session=True, **pipes) as child,
    ):
        job, answers = child.stdin, io.BufferedReader(child.stdout)  # pyright: ignore
        try:
            with contextlib.suppress(BrokenPipeError):
                job.write(pickle.dumps((LOGGER.getEffectiveLevel(), plugins, function, args)))  # pyright: ignore
            while isinstance(answer := pickle.load(answers), logging.LogRecord):
                logging.getLogger(answer.name).handle(answer)
        except (EOFError, pickle.UnpicklingError):
            code = child.wait()
            noise.seek(0)
            raise CrashError(how_it_ended(code, noise.read().decode(errors="replace"))) from None
        finally:
            child.kill()
    if isinstance(answer, Exception):
        raise answer
    return answer


def how_it_ended(code: int, noise: str) -> str:
    """The signal (a negative code, as `subprocess` gives it) or exit code, and the message of a failed check."""
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        how += ", perhaps for lack of memory"
    fatal = re.search(r"^F\d{4} .*?\] (.+)$", noise, re.MULTILINE)
    message = fatal[1] if fatal else next(iter(noise.splitlines()[-1:] if code > 0 else ()), "")
    return f"{how}: {message.strip()[:200]}" if message else how


def serve() -> None:
    """What the child runs: reads its job from stdin, and writes log records and one answer to stdout."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    handler: Any = QueueHandler(queue.SimpleQueue())  # makes records that can be pickled
    handler.enqueue = lambda record: answers.write(pickle.dumps(record))
    try:
        level, plugins, function, args = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        LOGGER.setLevel(level)
        LOGGER.addHandler(handler)
        for path in plugins:
            load_module(path)
        answer = function(*args)
    except (InputError, MemoryError) as error:
        answer = error
    except Exception:
        answer = RuntimeError(traceback.format_exc())
    answers.write(pickle.dumps(answer))


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the parent's end of the pipe is closed
    os._exit(1)
