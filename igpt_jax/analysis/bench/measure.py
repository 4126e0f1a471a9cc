"""Timing, and what belongs beside a time: the machine, and the rates it reaches in a product and a copy."""

from __future__ import annotations

import functools
import math
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax import progress
from igpt_jax.analysis.bench.profile import slowest, trace
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
        "commit": _commit(Path(__file__).parents[2]),
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
    product_s = min(time_runs(lambda: product(a).block_until_ready(), Effort(5), "measuring this machine"))
    copy_s = min(time_runs(lambda: copy(x).block_until_ready(), Effort(5), "measuring this machine"))
    return {"matmul_flops_per_s": 2 * n**3 / product_s, "memory_bytes_per_s": 2 * x.nbytes / copy_s}


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    runs: int = 10
    """Timed runs; `WARM_UP` more come before."""
    until: float = math.inf
    """The moment of `time.monotonic` after which no run is begun but the first timed one."""
    traces: Path | None = None
    """Where traces go; None for none."""


def time_runs(run: Callable[[], Any], effort: Effort, title: str) -> list[float]:
    """Seconds of each timed run, of at least one."""
    seconds, n = list[float](), WARM_UP + effort.runs
    for i in range(n):
        if len(seconds) > WARM_UP and time.monotonic() > effort.until:
            break
        progress.report(title, i, n)
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    progress.report(title, n, n)
    return seconds[WARM_UP:]


def profile(run: Callable[[], Any], effort: Effort, name: str) -> dict[str, Any]:
    """Traces one more run into `effort.traces` / name: {slowest_NAME: share of the time by operation}, or nothing."""
    if effort.traces is None:
        return {}
    trace(run, effort.traces / name)
    return {f"slowest_{name}": slowest(effort.traces / name)}


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    low, median, high = np.percentile(seconds, [10, 50, 90])
    return {"median_s": float(median), "p10_s": float(low), "p90_s": float(high), "runs": len(seconds)}
