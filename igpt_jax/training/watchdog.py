"""Ends a run that hangs, so that it can be started again."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

from igpt_jax.parallel import processes


class Watchdog:
    """Ends the process with code 75, after printing all stacks, if `reset` is not called for that many seconds.

    It is a thread of its own. A hang in a collective or on a disk cannot be ended more gently.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def reset(self, doing: str) -> None:
        """Called before each thing that is done, with a name for it."""
        self._doing, self._since = doing, time.monotonic()

    def __enter__(self) -> Watchdog:
        self.reset("starting")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._seconds / 10)):
            silent = time.monotonic() - self._since
            if silent > self._seconds:
                if out := sys.__stderr__:
                    message = f"no progress for {silent:.0f} s while {self._doing}; stacks of all threads follow"
                    print(f"{processes.process_label()}: {message}", file=out, flush=True)
                    faulthandler.dump_traceback(out)
                processes.exit_now(os.EX_TEMPFAIL)
