"""What is timed: a training step, the drawing of whole images, and the reading of batches.

Random weights and random pixels: speed does not depend on them.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from igpt_jax.analysis.bench.measure import Budget, machine_rates, profile, spread, time_runs
from igpt_jax.config import Config
from igpt_jax.datasets import open_data
from igpt_jax.errors import InputError
from igpt_jax.model import cache_row_bytes, compute_dtype, count_params
from igpt_jax.model.attention import BACKENDS, Case, attend, pick_backend, platform
from igpt_jax.model.decoder import ImageGPT, example_inputs
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import check_splits, make_mesh, put_batch
from igpt_jax.sampling.tasks import sample
from igpt_jax.training.flops import memory_peak, published_peak, training_flops
from igpt_jax.training.step import make_program


class Run(NamedTuple):
    """A compiled program and its arguments."""

    once: Callable[[], None]
    """Runs it, and returns when its results are there."""
    facts: dict[str, Any]
    """compile_s, and for a step temporary_bytes."""


def train_run(cfg: Config) -> Run:
    """A training step of the configuration, with its batch, on its mesh."""
    _check(cfg)
    mesh, size = make_mesh(cfg.mesh), cfg.data.batch_size
    check_splits(size, cfg.train.microbatches, mesh)
    program = make_program(cfg, _some_palette(cfg), mesh)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, *cfg.model.grid, cfg.data.channels), np.uint8)
    labels = rng.integers(0, max(cfg.model.clf_classes, cfg.model.cond_classes, 1), size).astype(np.int32)
    batch = put_batch({"image": images, "label": labels, "weight": np.ones(size, np.float32)}, mesh)
    state = program.init()
    begin = time.perf_counter()
    step = program.train_step.lower(state, batch).compile()
    facts = {
        "compile_s": time.perf_counter() - begin,
        "temporary_bytes": getattr(step.memory_analysis(), "temp_size_in_bytes", None),
    }

    def once() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    return Run(once, facts)


def sample_run(cfg: Config) -> Run:
    """Whole new images of the configuration's model, `sampler.batch_size` at once, by its sampler's rules.

    One slot after another, unless sampler.lookahead is a number: how often guesses are right, only trained weights say.
    """
    _check(cfg)
    sampler = dataclasses.replace(cfg.sampler, lookahead=one_by_one(cfg.sampler.lookahead))
    model, palette = ImageGPT(cfg.model, cfg.compute), _some_palette(cfg)
    params = jax.jit(model.init)(jax.random.key(0), example_inputs(cfg.model))["params"]

    def once() -> None:
        sample(model, params, palette, cfg.sampler.batch_size, sampler=sampler)  # its result is in numpy

    times = list[float]()
    for _ in range(2):
        begin = time.perf_counter()
        once()
        times.append(time.perf_counter() - begin)
    return Run(once, {"compile_s": times[0] - times[1]})


def bench_train(cfg: Config, budget: Budget) -> dict[str, Any]:
    """Times `train_run`; FLOPs by the paper's rule (causal half once), and by the other beside it."""
    run, size = train_run(cfg), cfg.data.batch_size
    seconds = time_runs(run.once, budget, "timing training steps")
    median, flops = statistics.median(seconds), training_flops(cfg.model, cfg.compute, size)
    peak, rates = published_peak(), machine_rates(compute_dtype(cfg.compute))
    return {
        "what": "train",
        **_shapes(cfg),
        **spread(seconds),
        **run.facts,
        "images_per_s": size / median,
        "tokens_per_s": size * cfg.model.n_ctx / median,
        "flops_per_s": flops.headline / median,
        "mfu": peak and flops.headline / median / peak,
        "mfu_noncausal": peak and flops.noncausal / median / peak,
        "share_of_matmul_rate": flops.headline / median / (rates["matmul_flops_per_s"] * jax.device_count()),
        "peak_bytes": memory_peak(),
        **rates,
        **profile(run.once, budget, "operations"),
    }


def one_by_one(lookahead: int | Literal["auto"]) -> int:
    """The window of `sample_run`."""
    return 0 if lookahead == "auto" else lookahead


def bench_sample(cfg: Config, budget: Budget) -> dict[str, Any]:
    """Times `sample_run`, beside what reading the weights and the filled cache once a token would take."""
    n, window = cfg.sampler.batch_size, one_by_one(cfg.sampler.lookahead)
    run = sample_run(cfg)
    seconds = time_runs(run.once, budget, "timing decoding")
    median, dtype = statistics.median(seconds), compute_dtype(cfg.compute)
    rates = machine_rates(dtype)
    rows = (cfg.model.n_ctx + 1) / 2  # of the cache that a step reads, if it reads no more than is filled
    cache = n * rows * cache_row_bytes(cfg.model, cfg.compute, cfg.sampler.cache)
    least = cfg.model.n_ctx * (count_params(cfg.model) * dtype.itemsize + cache)
    return {
        "what": "sample",
        **_shapes(cfg),
        "batch_size": n,
        "lookahead": window,
        **spread(seconds),
        **run.facts,
        "images_per_s": n / median,
        "tokens_per_s": n * cfg.model.n_ctx / median,
        "share_of_memory_rate": None if window else least / median / rates["memory_bytes_per_s"],
        **rates,
        **profile(run.once, budget, "operations"),
    }


def bench_data(cfg: Config, budget: Budget) -> dict[str, Any]:
    """Batches of the configuration's training images, read and prepared on this host."""
    batches = open_data(cfg, make_mesh(cfg.mesh)).train_batches(0)
    seconds = time_runs(lambda: next(batches), budget, "reading batches")
    mean = statistics.fmean(seconds)  # batches are prepared ahead, so a single time says little
    return {"what": "data", "source": cfg.data.source, **spread(seconds), "images_per_s": cfg.data.batch_size / mean}


def _check(cfg: Config) -> None:
    if cfg.model.has_conditioning:
        raise InputError("bench: models that read a degraded picture are not timed; name another experiment")


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
    rng = np.random.default_rng(0)
    return Palette(rng.uniform(-1, 1, (cfg.model.vocab_size, cfg.data.channels)).astype(np.float32))


BATCH = 2


def bench_kernels(cfg: Config, budget: Budget) -> dict[str, Any]:
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
        once = functools.partial(jax.jit(run, static_argnums=0), name, *arguments)
        errors = [
            float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max())
            for a, b in zip(jax.device_get(once()), expected, strict=True)
        ]
        figures |= {f"{name}_error": max(errors), f"{name}_s": statistics.median(time_runs(once, budget, name))}
        figures |= profile(once, budget, name)
    return figures
