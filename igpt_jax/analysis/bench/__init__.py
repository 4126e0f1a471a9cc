"""How fast a training step, decoding and the reading of images are on this machine.

Times are of whole programs, after runs that compile and warm up. Beside them stand what this machine reaches in a large
product of matrices and in a copy, measured in the same process, since published peaks are of other clocks and other
precisions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from igpt_jax.analysis.bench.measure import Budget, machine
from igpt_jax.analysis.bench.programs import bench_data, bench_kernels, bench_sample, bench_train, sample_run, train_run
from igpt_jax.config import Config, DataConfig, ModelConfig, SamplerConfig

__all__ = ["BENCHES", "Item", "machine", "measure", "paper_sizes", "sample_run", "train_run"]

BENCHES: dict[str, Callable[[Config, Budget], dict[str, Any]]] = {
    "kernels": bench_kernels,
    "train": bench_train,
    "sample": bench_sample,
    "data": bench_data,
}
"""Name -> (configuration, how long) -> figures, with the name under `what`."""


class Item(NamedTuple):
    """A name in `BENCHES` and what it measures."""

    bench: str
    cfg: Config


def paper_sizes() -> list[Item]:
    """Kernels, training and decoding of the paper's S, M and L at 32 x 32 pixels, for one accelerator of 80 GB.

    Batch sizes of training are those whose activations fit without recomputation, by the compiler's count.
    """

    def cfg(size: str, train: int, draw: int) -> Config:
        sampler = SamplerConfig(batch_size=draw)
        return Config(model=ModelConfig.preset(size), data=DataConfig(batch_size=train), sampler=sampler)

    sizes = {"s": 64, "m": 32, "l": 16}
    kernels = [Item("kernels", cfg(size, train, 1)) for size, train in sizes.items()]
    training = [Item("train", cfg(size, train, 1)) for size, train in sizes.items()]
    drawing = [Item("sample", cfg(size, 1, draw)) for size in sizes for draw in (128, 8, 1)]
    return [*kernels, *training, *drawing]


def measure(items: Sequence[Item], runs: int, budget_s: float, traces: Path | None = None) -> Iterator[dict[str, Any]]:
    """The figures of each item. One that does not fit into memory or time has the reason under `skipped`.

    Args:
      runs: timed runs of each item; fewer where its share of the time is over.
      budget_s: seconds. No item is begun later; one that has begun is finished.
      traces: a directory for a trace of one more run of each item that uses a device; its slowest operations are then
        among the figures.
    """
    begin = time.monotonic()
    for done, (name, cfg) in enumerate(items):
        left = begin + budget_s - time.monotonic()
        named = {"what": name, "layers": cfg.model.n_layer, "width": cfg.model.d_model}
        if left <= 0:
            yield named | {"skipped": f"the budget of {budget_s:g} s is over"}
            continue
        where = None if traces is None else traces / f"{done:02}-{name}-{cfg.model.n_layer}x{cfg.model.d_model}"
        budget = Budget(runs, time.monotonic() + left / (len(items) - done), where)
        try:
            yield BENCHES[name](cfg, budget)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            sizes = f"{cfg.data.batch_size} images a step, {cfg.sampler.batch_size} drawn at once"
            yield named | {"skipped": f"out of memory with {sizes}"}
