"""Timing, and what belongs beside a time: the machine, its rates in a product and a copy, and traces of one run."""

from __future__ import annotations

import functools
import math
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import igpt_jax
from igpt_jax import progress
from igpt_jax.version import __version__

WARM_UP = 2
"""Runs before those that are timed, after the one that compiles."""


def machine() -> dict[str, Any]:
    """What figures belong to: devices, versions, and the commit if this is a checkout."""
    return {
        "device": _device_name(),
        "backend": jax.default_backend(),
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "igpt_jax": __version__,
        "commit": _commit(Path(igpt_jax.__file__).parents[1]),
    }


def _device_name() -> str:
    """What JAX calls the device, or what its maker calls the CPU, without trade marks."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return kind
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), kind)
    return name.replace("(R)", "").replace("(TM)", "")


def _commit(checkout: Path) -> str | None:
    """None if this is no checkout, or git is not there."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None


@functools.cache
def machine_rates(dtype: jnp.dtype) -> dict[str, float]:
    """Of one device: FLOP/s of a large product of matrices of this type, and bytes per second of a copy."""
    large = jax.default_backend() != "cpu"
    n, size = (8192, 2**28) if large else (2048, 2**25)
    a, x = jnp.ones((n, n), dtype), jnp.ones(size, jnp.float32)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda x: x + 1)
    product_s = min(time_runs(lambda: product(a), Budget(5), "measuring this machine"))
    copy_s = min(time_runs(lambda: copy(x), Budget(5), "measuring this machine"))
    return {"matmul_flops_per_s": 2 * n**3 / product_s, "memory_bytes_per_s": 2 * x.nbytes / copy_s}


@dataclass(frozen=True)
class Budget:
    """How long to measure."""

    runs: int = 10
    """Timed runs; `WARM_UP` more come before."""
    until: float = math.inf
    """The moment of `time.monotonic` after which no run is begun but the first timed one."""
    traces: Path | None = None
    """Where traces go; None for none."""


def time_runs(run: Callable[[], Any], budget: Budget, title: str) -> list[float]:
    """Seconds of each timed run until its results are there, of at least one run."""
    seconds, n = list[float](), WARM_UP + budget.runs
    for i in range(n):
        if len(seconds) > WARM_UP and time.monotonic() > budget.until:
            break
        progress.report(title, i, n)
        begin = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - begin)
    progress.report(title, n, n)
    return seconds[WARM_UP:]


def profile(run: Callable[[], Any], budget: Budget, name: str) -> dict[str, Any]:
    """Traces one more run into `budget.traces` / name: {slowest_NAME: share of the time by operation}, or nothing."""
    if budget.traces is None:
        return {}
    trace(run, budget.traces / name)
    return {f"slowest_{name}": slowest(budget.traces / name)}


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    low, median, high = np.percentile(seconds, [10, 50, 90])
    return {"median_s": float(median), "p10_s": float(low), "p90_s": float(high), "runs": len(seconds)}


SHOWN = 6
"""Operations that are named."""

_NUMBER = re.compile(r"(\.\d+)+$")


class Span(NamedTuple):
    """One execution of an operation, in nanoseconds from the begin of the trace."""

    name: str
    begin: int
    end: int


def trace(run: Callable[[], Any], directory: Path) -> None:
    """Runs once, and adds what happened below `directory`, for xprof (`.xplane.pb`) and Perfetto (`.trace.json.gz`)."""
    directory.mkdir(parents=True, exist_ok=True)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python functions, which would fill the trace
    with jax.profiler.trace(directory, profiler_options=options):
        jax.block_until_ready(run())


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
