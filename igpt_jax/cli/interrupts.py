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
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

GRACE_S = 3.0
"""How long an interrupted command may take to remove what it has half written, before the process is ended."""


def acknowledge_signals() -> None:
    """Starts the thread. Call it once, in the main thread, before anything slow."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    sys.unraisablehook = _without_interrupts
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job ignores it
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, or ends the process where an extension module that is being imported could crash."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            wait_for_acknowledgement()
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _without_interrupts(unraisable: sys.UnraisableHookArgs) -> None:
    """Says nothing of a Ctrl-C that came while Python could not raise it: it has been answered."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


_writes_files = False


@contextlib.contextmanager
def tidying_up() -> Iterator[None]:
    """Within the block, an interrupted command may take `GRACE_S` to remove what it has half written; else it ends."""
    global _writes_files
    _writes_files = True
    try:
        yield
    finally:
        _writes_files = False


def wait_for_acknowledgement() -> None:
    """Returns once the signal that ends this process has been answered."""
    _answered.wait(1.0)


_answered = threading.Event()


def _watch(reader: int) -> None:
    interrupts = 0
    while True:
        for signum in os.read(reader, 1):
            if signum not in (signal.SIGINT, signal.SIGTERM):
                continue
            interrupts += 1
            name = signal.Signals(signum).name
            loop = sys.modules.get("igpt_jax.training.loop")  # it may be half imported
            if interrupts == 1 and getattr(loop, "SIGNALS_SAVE", False):
                _say(f"{name}: the run is saved after this step, then stops; another {name} stops it at once")
            elif signum == signal.SIGINT:
                _say("interrupted")
                if not _writes_files:
                    os._exit(130)
                threading.Thread(target=_end, daemon=True).start()
            _answered.set()


def _end() -> None:
    time.sleep(GRACE_S)
    os._exit(130)


def _say(line: str) -> None:
    os.write(2, f"\nigpt: {line}\n".encode())  # sys.stderr may be locked by the main thread
