"""What a person sees while a command works: bars on a terminal, a line now and then elsewhere. Process 0 shows it."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from igpt_jax import progress
from igpt_jax.config import Config

CONSOLE = Console(stderr=True)

LINE_EVERY_S = 10.0
"""Pause between two lines about the same work where there is no terminal."""


class ConsoleHandler(logging.Handler):
    """Log lines that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def say(line: str) -> None:
    """A line on stderr, above a progress bar if there is one."""
    CONSOLE.print(f"igpt: {line}", markup=False, highlight=False, soft_wrap=True)


class Bars:
    """One bar for each piece of work, or lines with the time left."""

    def __init__(self) -> None:
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[numbers]}")
        where = dict(console=CONSOLE, transient=True, redirect_stdout=False, redirect_stderr=False)
        self.progress = Progress(*columns, TimeRemainingColumn(), **where)  # pyright: ignore
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._last_line: dict[str, float] = {}

    def show(self, what: str, done: int, total: int, numbers: str = "") -> None:
        """A `progress.Listener`; `numbers` stand beside the bar."""
        now = time.monotonic()
        if done == 0 or what not in self._started:
            self._started[what] = self._last_line[what] = now
        if CONSOLE.is_terminal:
            self._bar(what, done, total, numbers)
        elif 0 < done < total and now - self._last_line[what] >= LINE_EVERY_S:
            self._last_line[what] = now
            left = (now - self._started[what]) * (total - done) / done
            print(f"{what}: {done}/{total}, {clock(left)} left", file=sys.stderr, flush=True)

    def _bar(self, what: str, done: int, total: int, numbers: str) -> None:
        if done >= total:
            if what in self._tasks:
                self.progress.remove_task(self._tasks.pop(what))
        elif what not in self._tasks:
            self._tasks[what] = self.progress.add_task(what, total=total, completed=done, numbers=numbers)
        else:
            self.progress.update(self._tasks[what], total=total, completed=done, numbers=numbers)


def clock(seconds: float) -> str:
    """A duration as 1:23:45."""
    return str(timedelta(seconds=math.ceil(seconds))) if math.isfinite(seconds) else "?"


class TrainingLines:
    """A writer of the metric log: training on the bar or in lines, numbers of evaluations always in lines."""

    def __init__(self, cfg: Config, bars: Bars):
        self._name, self._steps, self._batch_size, self._bars = cfg.name, cfg.train.steps, cfg.data.batch_size, bars
        self._measured = "validation" if cfg.data.validation else "held out"

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Takes a line of metrics.jsonl."""
        if "train/loss" in scalars:
            if not CONSOLE.is_terminal:
                rate = scalars["train/images_per_s"]
                left = clock((self._steps - step) * self._batch_size / rate) if rate else "?"
                share = f"  MFU {scalars['train/mfu']:.0%}" if "train/mfu" in scalars else ""
                numbers = f"loss {scalars['train/loss']:.4f}  {rate:.0f} images/s{share}  {left} left"
                print(f"step {step}/{self._steps}  {numbers}", file=sys.stderr, flush=True)
            return
        named = {name.partition("/")[2].replace("_", " "): value for name, value in scalars.items()}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in named.items() if not name.startswith("bits"))
        line = f"step {step}/{self._steps}  {self._measured}: {shown}"
        CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_step(self, step: int, log: Any) -> None:
        """After every step: the bar."""
        if CONSOLE.is_terminal:
            rate = f"  {log.images_per_s:.0f} images/s" if math.isfinite(log.images_per_s) else ""
            numbers = f"loss {log.loss:.4f}{rate}" if math.isfinite(log.loss) else "compiling"
            self._bars.show(self._name, step, self._steps, numbers)

    def close(self) -> None:
        """Nothing is open."""


_bars: list[Bars] = []


def current_bars() -> Bars | None:
    """The bars of the command that runs; None with --quiet, and on all processes but 0."""
    return _bars[-1] if _bars else None


@contextlib.contextmanager
def show_progress(quiet: bool) -> Iterator[None]:
    """Shows what the library reports, within the block."""
    from igpt_jax.parallel.processes import is_multiprocess, is_process_zero

    if quiet or (is_multiprocess() and not is_process_zero()):
        yield
        return
    bars = Bars()
    _bars.append(bars)
    try:
        with bars.progress if CONSOLE.is_terminal else contextlib.nullcontext(), progress.listening(bars.show):
            yield
    finally:
        _bars.remove(bars)
