"""Held-out accuracy of the classification head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from igpt_jax.evaluation.base import EvalContext, Evaluator
from igpt_jax.keys import fold_in
from igpt_jax.objectives import ACCURACY


def make_accuracy(context: EvalContext) -> Evaluator:
    """Share of the labelled held-out images whose class the head names.

    A model trained on masked images sees masked images here too, as many masks of each as the objective draws. The
    class that most of them name wins, at random among equals (paper section 4.6).
    """
    model, objective = context.model, context.objective

    def measure(params: Any, batch: Mapping[str, jax.Array], keys_B: jax.Array) -> dict[str, Any]:
        def named(draw: jax.Array) -> jax.Array:
            inputs = objective.example(batch, fold_in(keys_B, draw)).inputs
            logits: Any = model.apply({"params": params}, inputs, method="logits_and_classes")
            return jnp.argmax(logits[1], axis=-1).astype(jnp.int32)

        votes_MB = jax.lax.map(named, jnp.arange(objective.draws, dtype=jnp.int32))
        named_B = majority(votes_MB, model.cfg.clf_classes, fold_in(keys_B, objective.draws))
        return {"accuracy": (named_B == batch["label"], batch["weight"] * (batch["label"] >= 0))}

    return Evaluator(measure, {"accuracy": ACCURACY})


def majority(classes_MB: jax.Array, n_classes: int, keys_B: jax.Array) -> jax.Array:
    """int32 [B]: the class that most of M votes name; drawn with the image's key among those named equally often."""
    votes_BC = jax.nn.one_hot(classes_MB, n_classes).sum(axis=0)
    ties_BC = jax.vmap(lambda key: jax.random.uniform(key, (n_classes,)))(fold_in(keys_B, 0))  # less than one vote
    return jnp.argmax(votes_BC + ties_BC, axis=-1).astype(jnp.int32)
