"""Whether the attention backends of this machine compute what the reference does, and how long they take."""

from __future__ import annotations

import statistics
from typing import Any

import jax
import numpy as np

from igpt_jax.analysis.bench.measure import Effort, profile, time_runs
from igpt_jax.config import Config
from igpt_jax.model import compute_dtype
from igpt_jax.model.attention import BACKENDS, Case, attend, platform
from igpt_jax.model.decoder import ImageGPT

BATCH = 2


def bench_kernels(cfg: Config, effort: Effort) -> dict[str, Any]:
    """For every backend that can serve the configuration's attention: its error, and seconds with the backward pass.

    The error is the largest one in the output and the three gradients, as a share of the largest value of each, against
    the reference in float32 at full precision.
    """
    model, dtype = cfg.model, compute_dtype(cfg.compute)
    mask = ImageGPT(model).mask
    t = model.n_ctx + model.prefix_slots
    case = Case(platform(), dtype.name, t, t, model.head_dim, mask)
    shape = (BATCH, t, model.n_head, model.head_dim)
    q, k, v, upstream = (jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 4))

    def run(backend: str, *qkv: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, mask, backend), *qkv)
        return out, *pull(upstream.astype(out.dtype))

    with jax.default_matmul_precision("highest"):
        expected = jax.device_get(jax.jit(run, static_argnums=0)("reference", q, k, v))
    figures: dict[str, Any] = {"what": "kernels", "tokens": t, "head_size": model.head_dim, "dtype": dtype.name}
    arguments = tuple(x.astype(dtype) for x in (q, k, v))
    for name, backend in BACKENDS.items():
        if backend.refusal(case):
            continue
        step = jax.jit(run, static_argnums=0)
        computed = jax.device_get(step(name, *arguments))
        errors = [
            float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max())
            for a, b in zip(computed, expected, strict=True)
        ]

        def once(step: Any = step, name: str = name) -> None:
            jax.block_until_ready(step(name, *arguments))

        figures |= {f"{name}_error": max(errors), f"{name}_s": statistics.median(time_runs(once, effort, name))}
        figures |= profile(once, effort, name)
    return figures
