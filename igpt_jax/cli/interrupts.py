"""Signals are answered at once, even while a compiled program runs, and never swallowed.

Python's own handlers run only between two lines of Python, which may be minutes apart. The C side of them writes the
number of the signal to a pipe first; a thread reads it, says what will happen, and sees to it that it does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

GRACE_S = 5.0
"""How long an interrupted command may take to tidy up before the process is ended."""


def acknowledge_signals() -> None:
    """Starts the thread. Call it once, in the main thread, before anything slow."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


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
            loop = sys.modules.get("igpt_jax.training.loop")
            if interrupts == 1 and loop is not None and loop.SIGNALS_SAVE:
                _say(f"{name}: the run is saved after this step, then stops; another {name} stops it at once")
            elif signum == signal.SIGINT:
                _say("interrupted")
                threading.Thread(target=_end, daemon=True).start()
            _answered.set()


def _end() -> None:
    time.sleep(GRACE_S)
    os._exit(130)


def _say(line: str) -> None:
    os.write(2, f"\nigpt: {line}\n".encode())  # sys.stderr may be locked by the main thread
