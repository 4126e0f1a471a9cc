"""How fast a training step, decoding and the reading of images are on this machine.

Random weights and random pixels: speed does not depend on them. Times are of whole programs, after runs that compile
and warm up. Beside them stand what this machine reaches in a large product of matrices and in a copy, measured in the
same process, since published peaks are of other clocks and other precisions.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax import progress
from igpt_jax.config import Config
from igpt_jax.datasets import open_data
from igpt_jax.errors import InputError
from igpt_jax.model import compute_dtype, count_params
from igpt_jax.model.attention import Case, pick_backend, platform
from igpt_jax.model.decoder import ImageGPT, example_inputs
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import make_mesh, put_batch
from igpt_jax.planning.flops import training_flops
from igpt_jax.sampling.tasks import sample
from igpt_jax.training.step import make_program
from igpt_jax.version import __version__

WARM_UP = 2
"""Runs before those that are timed, after the one that compiles."""

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Part of a GPU's name -> its published FLOP/s in bfloat16 without sparsity (NVIDIA's data sheets, SXM)."""


def bench_train(cfg: Config, repeats: int) -> dict[str, Any]:
    """A training step of the configuration, with its batch, on its mesh.

    Raises:
      InputError: as `make_program`, or the model reads a damaged picture.
    """
    _check(cfg)
    mesh, size = make_mesh(cfg.mesh), cfg.data.batch_size
    program = make_program(cfg, _some_palette(cfg), mesh)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, *cfg.model.grid, cfg.data.channels), np.uint8)
    labels = rng.integers(0, max(cfg.model.clf_classes, cfg.model.cond_classes, 1), size).astype(np.int32)
    batch = put_batch({"image": images, "label": labels, "weight": np.ones(size, np.float32)}, mesh)
    state = program.init()
    begin = time.perf_counter()
    step = program.train_step.lower(state, batch).compile()
    compile_s, memory = time.perf_counter() - begin, step.memory_analysis()

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    seconds = time_runs(run, repeats, "timing training steps")
    median, flops = statistics.median(seconds), training_flops(cfg.model, cfg.compute, size)
    peak = published_peak()
    rates = machine_rates(compute_dtype(cfg.compute))
    return {
        "what": "train",
        **_shapes(cfg),
        **spread(seconds),
        "compile_s": compile_s,
        "images_per_s": size / median,
        "tokens_per_s": size * cfg.model.n_ctx / median,
        "flops_per_s": flops.headline / median,
        "mfu": peak and flops.headline / median / peak,
        "mfu_noncausal": peak and flops.noncausal / median / peak,
        "share_of_matmul_rate": flops.headline / median / (rates["matmul_flops_per_s"] * jax.device_count()),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
        "peak_bytes": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        **rates,
    }


def bench_sample(cfg: Config, repeats: int) -> dict[str, Any]:
    """Whole new images of the configuration's model, `sampler.batch_size` at once, by its sampler's rules.

    Raises:
      InputError: the model reads a damaged picture, or does not draw one pixel after another.
    """
    _check(cfg)
    model, palette = ImageGPT(cfg.model, cfg.compute), _some_palette(cfg)
    n, window = cfg.sampler.batch_size, cfg.sampler.lookahead
    params = jax.jit(model.init)(jax.random.key(0), example_inputs(cfg.model))["params"]

    def run() -> None:
        sample(model, params, palette, n, sampler=cfg.sampler)  # its result is in numpy

    begin = time.perf_counter()
    run()
    first = time.perf_counter() - begin
    seconds = time_runs(run, repeats, "timing decoding")
    median, dtype = statistics.median(seconds), compute_dtype(cfg.compute)
    rates = machine_rates(dtype)
    rows = (cfg.model.n_ctx + 1) / 2  # of the cache that a step reads, if it reads no more than is filled
    cache = 2 * cfg.model.n_layer * n * rows * cfg.model.d_model * dtype.itemsize
    least = cfg.model.n_ctx * (count_params(cfg.model) * dtype.itemsize + cache)
    return {
        "what": "sample",
        **_shapes(cfg),
        "batch_size": n,
        "lookahead": window,
        **spread(seconds),
        "compile_s": first - median,
        "images_per_s": n / median,
        "tokens_per_s": n * cfg.model.n_ctx / median,
        # weights and filled cache read once a token
        "share_of_memory_rate": None if window else least / median / rates["memory_bytes_per_s"],
        **rates,
    }


def bench_data(cfg: Config, repeats: int) -> dict[str, Any]:
    """Batches of the configuration's training images, read and prepared on this host.

    Raises:
      InputError: as `open_data`.
    """
    batches = open_data(cfg, make_mesh(cfg.mesh)).train_batches(0)
    seconds = time_runs(lambda: next(batches), repeats, "reading batches")
    mean = statistics.fmean(seconds)  # batches are prepared ahead, so a single time says little
    return {"what": "data", "source": cfg.data.source, **spread(seconds), "images_per_s": cfg.data.batch_size / mean}


BENCHES: dict[str, Callable[[Config, int], dict[str, Any]]] = {
    "train": bench_train,
    "sample": bench_sample,
    "data": bench_data,
}
"""Name -> (configuration, timed runs) -> figures, with the name under `what`."""


def machine() -> dict[str, Any]:
    """What figures belong to: devices, versions, and the commit if this is a checkout."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "igpt_jax": __version__,
        "commit": _commit(Path(__file__).parent.parent),
    }


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
    product_s = min(time_runs(lambda: product(a).block_until_ready(), 5, "measuring this machine"))
    copy_s = min(time_runs(lambda: copy(x).block_until_ready(), 5, "measuring this machine"))
    return {"matmul_flops_per_s": 2 * n**3 / product_s, "memory_bytes_per_s": 2 * x.nbytes / copy_s}


def published_peak() -> float | None:
    """FLOP/s of all devices in bfloat16 as their maker says, None if they are not in the table."""
    kind = jax.devices()[0].device_kind
    return next((peak * jax.device_count() for name, peak in PEAK_FLOPS.items() if name in kind), None)


def time_runs(run: Callable[[], Any], repeats: int, title: str) -> list[float]:
    """Seconds of each of so many runs, after those that warm up."""
    seconds = []
    for i in range(WARM_UP + repeats):
        progress.report(title, i, WARM_UP + repeats)
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    progress.report(title, WARM_UP + repeats, WARM_UP + repeats)
    return seconds[WARM_UP:]


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    low, median, high = np.percentile(seconds, [10, 50, 90])
    return {"median_s": float(median), "p10_s": float(low), "p90_s": float(high), "runs": len(seconds)}


def _check(cfg: Config) -> None:
    if cfg.model.reads_picture:
        raise InputError("bench: models that read a damaged picture are not timed; name another experiment")


def _shapes(cfg: Config) -> dict[str, Any]:
    model, dtype = cfg.model, compute_dtype(cfg.compute)
    case = Case(platform(), dtype.name, model.n_ctx, model.n_ctx, model.head_dim, ImageGPT(model).mask)
    return {
        "layers": model.n_layer,
        "width": model.d_model,
        "heads": model.n_head,
        "tokens": model.n_ctx,
        "parameters": count_params(model),
        "batch_size": cfg.data.batch_size,
        "dtype": dtype.name,
        "attention": pick_backend(cfg.compute.attention, case),
    }


def _some_palette(cfg: Config) -> Palette:
    """Colours that are all different; which they are does not matter."""
    rng = np.random.default_rng(0)
    return Palette(rng.uniform(-1, 1, (cfg.model.vocab_size, cfg.data.channels)).astype(np.float32))
