"""How well a model predicts held-out images and their classes.

Likelihoods are of palette-quantised pixels: nats or bits per token (one token is one pixel), not per RGB channel, so
they compare only within one palette and resolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.data.sources.base import class_counts
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext, Evaluator
from igpt_jax.keys import fold_in
from igpt_jax.objectives import ACCURACY, NATS, with_class


def make_likelihood(context: EvalContext) -> Evaluator:
    """The objective's own losses and metrics. Its masks are drawn `objective.draws` times for each image."""
    model, objective = context.model, context.objective

    def measure(params: Any, batch: Mapping[str, jax.Array], keys_B: jax.Array) -> dict[str, Any]:
        scores = objective.score(model, params, objective.example(batch, keys_B), objective.loss_name)
        return {name: (mean.value, mean.weight) for name, mean in scores.each.items()}

    return Evaluator(measure, objective.figures, objective.draws)


def make_accuracy(context: EvalContext) -> Evaluator:
    """Share of the labelled images whose class the classification head names.

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


def make_bayes(context: EvalContext) -> Evaluator:
    """The generative classifier: the class c with the largest log p(image | c) + log p(c), and the likelihood of images
    whose class is not given: marginal_nats is -log sum_c p(c) p(image | c) / T.

    p(c) is the share of the class among the training images, or the same for all where the source does not know it.
    Each image takes as many passes as there are classes.
    """
    cfg, objective, model = context.model.cfg, context.objective, context.model
    if not cfg.cond_classes:
        raise InputError("bayes: this model reads no classes; train one with model.cond_classes")
    counts = np.zeros(cfg.cond_classes)
    known = class_counts(context.data.train)
    counts[: len(known) or None] = known or 1
    with np.errstate(divide="ignore"):  # of a class without images
        log_prior_C = np.log(counts / counts.sum()).astype(np.float32)

    def measure(params: Any, batch: Mapping[str, jax.Array], keys_B: jax.Array) -> dict[str, Any]:
        example = objective.example(batch, keys_B)

        def of_class(c: jax.Array) -> jax.Array:
            given = with_class(example, jnp.full_like(batch["label"], c))
            losses = objective.score(model, params, given, objective.loss_name).losses
            return -losses[objective.loss_name].value * cfg.n_ctx

        joint_CB = jax.lax.map(of_class, jnp.arange(cfg.cond_classes, dtype=jnp.int32)) + log_prior_C[:, None]
        correct_B = jnp.argmax(joint_CB, axis=0) == batch["label"]
        nats_B = -jax.nn.logsumexp(joint_CB, axis=0) / cfg.n_ctx
        labelled_B = batch["weight"] * (batch["label"] >= 0)
        return {"bayes_accuracy": (correct_B, labelled_B), "marginal_nats": (nats_B, batch["weight"])}

    return Evaluator(measure, {"bayes_accuracy": ACCURACY, "marginal_nats": NATS})
