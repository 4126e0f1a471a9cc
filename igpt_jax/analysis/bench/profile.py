"""Where the time of a run goes: a trace of one run by JAX's profiler, and the operations that took most of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

SHOWN = 6
"""Operations that are named."""

_NUMBER = re.compile(r"(\.\d+)+$")


class Span(NamedTuple):
    """One execution of an operation, in nanoseconds from the begin of the trace."""

    name: str
    begin: int
    end: int


def trace(run: Callable[[], Any], directory: Path) -> None:
    """Runs once, and adds what happened below `directory`, for xprof (`.xplane.pb`) and Perfetto (`.trace.json.gz`).

    Raises:
      OSError: it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python functions, which would fill the trace
    with jax.profiler.trace(directory, profiler_options=options):
        run()


def slowest(directory: Path) -> dict[str, float]:
    """Name -> its share of the time of all operations, in the newest trace below `directory`; most time first.

    Operations of one name count together, whatever their number (`dot.3` and `dot.12`). A loop counts without what runs
    inside it. Empty if nothing ran that XLA compiled.
    """
    path = max(directory.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    total = Counter[str]()
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            spans = [
                Span(_NUMBER.sub("", str(value)), int(event.start_ns), int(event.end_ns))
                for event in line.events
                for name, value in event.stats
                if name == "hlo_op"
            ]
            total.update(own_time(spans))
    everything = sum(total.values())
    return {name: time / everything for name, time in total.most_common(SHOWN)}


def own_time(spans: Iterable[Span]) -> Counter[str]:
    """Name -> nanoseconds without those of the spans inside. Spans are of one thread: inside each other or apart."""
    total, around = Counter[str](), list[Span]()
    for span in sorted(spans, key=lambda span: (span.begin, -span.end)):
        while around and around[-1].end <= span.begin:
            around.pop()
        time = span.end - span.begin
        total[span.name] += time
        if around:
            total[around[-1].name] -= time
        around.append(span)
    return total
