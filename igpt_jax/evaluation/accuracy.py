"""Held-out accuracy of the classification head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax import progress
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext, eval_keys
from igpt_jax.evaluation.standard_error import mean_error
from igpt_jax.keys import fold_in, stream
from igpt_jax.parallel.mesh import put_batch, replicated, traced_on


class Accuracy:
    """Share of the labelled held-out images whose class the head names.

    A model trained on masked images sees masked images here too, as many masks of each as the objective draws. The
    class that most of them name wins, at random among equals (paper section 4.6).

    Attributes:
      right: float64 [M], 1 where a held-out image was named rightly, 0 where wrongly, NaN where it has no label; once
        `run` has ended.
    """

    def __init__(self, context: EvalContext):
        self._context, objective, model = context, context.objective, context.model
        self.right: np.ndarray | None = None
        key = stream(context.cfg.seed, "eval")

        def vote(params: Any, batch: Mapping[str, jax.Array], first: jax.Array) -> jax.Array:
            def one(draw: jax.Array) -> jax.Array:
                keys_B = eval_keys(key, first, len(batch["image"]), draw)
                inputs = objective.example(batch, keys_B).inputs
                logits: Any = model.apply({"params": params}, inputs, method="logits_and_classes")
                return jnp.argmax(logits[1], axis=-1).astype(jnp.int32)

            if objective.draws == 1:
                return one(jnp.int32(0))
            ties_B = eval_keys(key, first, len(batch["image"]), objective.draws)
            return majority(jax.lax.map(one, jnp.arange(objective.draws)), model.cfg.clf_classes, ties_B)

        def right(params: Any, batch: Mapping[str, jax.Array], first: jax.Array) -> tuple[jax.Array, jax.Array]:
            return vote(params, batch, first) == batch["label"], batch["label"] >= 0

        self._right = jax.jit(traced_on(context.mesh, right), out_shardings=replicated(context.mesh))

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the accuracy, in 0..1, and its standard error over groups of images.

        Raises:
          InputError: no held-out image has a label.
        """
        first, parts, n = 0, [], len(self._context.held_out)
        for host in self._context.batches():
            progress.report("measuring the accuracy", min(first, n), n)
            batch = put_batch(host, self._context.mesh)
            right_B, labelled_B = jax.device_get(self._right(params, batch, np.int32(first)))
            parts.append(np.where(labelled_B, right_B, np.nan))
            first += len(right_B)
        progress.report("measuring the accuracy", n, n)
        self.right = right = np.concatenate(parts)[:n]  # without padding
        if np.isnan(right).all():
            raise InputError("data.source: no held-out image has a label to compare with")
        yield "accuracy", float(np.nanmean(right))
        error = mean_error(right, self._context.groups)
        if not math.isnan(error):
            yield "accuracy_se", error


def majority(classes_MB: jax.Array, n_classes: int, keys_B: jax.Array) -> jax.Array:
    """int32 [B]: the class that most of M votes name; drawn with the image's key among those named equally often."""
    votes_BC = jax.nn.one_hot(classes_MB, n_classes).sum(axis=0)
    ties_BC = jax.vmap(lambda key: jax.random.uniform(key, (n_classes,)))(fold_in(keys_B, 0))  # less than one vote
    return jnp.argmax(votes_BC + ties_BC, axis=-1).astype(jnp.int32)
