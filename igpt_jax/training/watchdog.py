"""Ends a run that hangs, so that whoever started it can start it again."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType
from typing import TextIO

from igpt_jax.parallel import multihost


class Watchdog:
    """A thread that, when `beat` is not called for so many seconds, prints the stacks of all threads and ends the
    process with code 75. A hang in a collective or on a disk cannot be ended any gentler.
    """

    def __init__(self, seconds: float, out: TextIO | None = None):
        self._seconds, self._out = seconds, out or sys.__stderr__
        self._doing, self._since = "starting", time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def beat(self, doing: str) -> None:
        """Something is about to be done."""
        self._doing, self._since = doing, time.monotonic()

    def __enter__(self) -> Watchdog:
        self.beat(self._doing)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._seconds / 10)):
            silent = time.monotonic() - self._since
            if silent > self._seconds:
                if self._out is not None:
                    message = f"no progress for {silent:.0f} s while {self._doing}; stacks of all threads follow"
                    print(f"{multihost.who()}: {message}", file=self._out, flush=True)
                    faulthandler.dump_traceback(self._out, all_threads=True)
                    self._out.flush()
                multihost.leave_alone(os.EX_TEMPFAIL)
