"""What evaluators and pictures are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from igpt_jax.config import Config
from igpt_jax.data.pipeline import Batch
from igpt_jax.data.sources.base import Source
from igpt_jax.datasets import Data
from igpt_jax.keys import fold_in
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.objectives import Objective
from igpt_jax.palette import Palette
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
