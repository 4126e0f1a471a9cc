"""What evaluators and pictures are made from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax import progress
from igpt_jax.config import Config
from igpt_jax.data.pipeline import Batch
from igpt_jax.data.sources.base import Source
from igpt_jax.data.sources.validation import group_numbers
from igpt_jax.datasets import Data
from igpt_jax.keys import fold_in
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.objectives import Objective
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import put_batch, replicated
from igpt_jax.training.loop import Evaluator


@dataclass(frozen=True)
class EvalContext:
    """A model without its weights, and the held-out images to evaluate it on."""

    model: ImageGPT
    objective: Objective
    palette: Palette
    cfg: Config
    data: Data
    held_out: Source
    """The images that are measured."""
    kind: str = "held-out"
    """What they are called in tables: held-out, validation or training; empty for all."""

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """int [M]: held-out images of one number are variants of one picture. Standard errors are over the groups."""
        return group_numbers(self.held_out)

    @property
    def mesh(self) -> Mesh:
        """Where the evaluation runs."""
        return self.data.mesh

    def batches(self) -> Iterator[Batch]:
        """This process's weighted batches of all held-out images, from the start at every call."""
        return self.data.eval_batches(self.held_out)


MakeEvaluator = Callable[[EvalContext], Evaluator]


def eval_keys(key: jax.Array, first: jax.Array, n: int, draw: jax.Array | int) -> jax.Array:
    """The keys of held-out images first .. first + n - 1 for their draw number `draw`."""
    return fold_in(fold_in(key, first + jnp.arange(n)), draw)


def gather(context: EvalContext, source: Source, read: Callable[[Mapping[str, jax.Array]], Any]) -> Any:
    """What a function reads from each image of a source, in order, on every process. Each process reads its own share.

    Args:
      read: a batch -> arrays [B, ...] as a pytree; it is compiled.

    Returns:
      Their numpy arrays [n, ...], without padding.
    """
    both = jax.jit(lambda batch: (read(batch), batch["weight"]), out_shardings=replicated(context.mesh))
    parts, done, n = [], 0, len(source)
    for host in context.data.eval_batches(source):
        progress.report("reading images", min(done, n), n)
        arrays, weight_B = jax.device_get(both(put_batch(host, context.mesh)))
        parts.append(jax.tree.map(lambda x, real_B=weight_B > 0: x[real_B], arrays))
        done += len(weight_B)
    progress.report("reading images", n, n)
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
