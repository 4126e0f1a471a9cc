"""Signals are answered at once, even while a compiled program runs, and never swallowed.

Python's own handlers run only between two lines of Python, which may be minutes apart. The C side of them writes the
number of the signal to a pipe first; a thread reads it, says what will happen, and sees to it that it does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

GRACE_S = 3.0
"""How long an interrupted command may take to remove what it has half written, before the process is ended."""

_tidied = threading.Event()


def acknowledge_signals() -> None:
    """Starts the thread. Call it once, in the main thread, before anything slow."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    # A Ctrl-C that came while Python could not raise it has been answered.
    say = sys.unraisablehook
    sys.unraisablehook = lambda found: None if issubclass(found.exc_type, KeyboardInterrupt) else say(found)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job ignores it
        signal.signal(signal.SIGINT, _interrupt)


def end() -> NoReturn:
    """Ends the process as soon as its interruption has been answered."""
    _tidied.set()
    threading.Event().wait(1.0)
    os._exit(130)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, or ends the process where an extension module that is being imported could crash."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            end()
        frame = frame.f_back
    raise KeyboardInterrupt


def _watch(reader: int) -> None:
    answered = False
    while True:
        for signum in os.read(reader, 1):
            # a run that would save itself has put its own handler there; it says what it does
            saves = getattr(signal.getsignal(signal.SIGINT), "answer", None)
            name = signal.Signals(signum).name
            if saves and not answered and signum in (signal.SIGINT, signal.SIGTERM):
                _say(f"{name}: {saves}; another {name} stops it at once")
                answered = True
            elif signum == signal.SIGINT:
                _say("interrupted")
                _tidied.wait(GRACE_S)
                os._exit(130)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"\nigpt: {line}\n".encode())  # sys.stderr may be locked by the main thread
