"""The generative classifier: Bayes' rule on the likelihoods that a class-conditional model gives an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.data.sources.base import class_counts
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext, Evaluator
from igpt_jax.objectives import ACCURACY, NATS, with_class


def make_bayes(context: EvalContext) -> Evaluator:
    """Which class c makes log p(image | c) + log p(c) largest, and the likelihood of images whose class is not given:
    marginal_nats is -log sum_c p(c) p(image | c) / T.

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
            told = with_class(example, jnp.full_like(batch["label"], c))
            losses = objective.score(model, params, told, objective.loss_name).losses
            return -losses[objective.loss_name].value * cfg.n_ctx

        joint_CB = jax.lax.map(of_class, jnp.arange(cfg.cond_classes, dtype=jnp.int32)) + log_prior_C[:, None]
        correct_B = jnp.argmax(joint_CB, axis=0) == batch["label"]
        nats_B = -jax.nn.logsumexp(joint_CB, axis=0) / cfg.n_ctx
        labelled_B = batch["weight"] * (batch["label"] >= 0)
        return {"bayes_accuracy": (correct_B, labelled_B), "marginal_nats": (nats_B, batch["weight"])}

    return Evaluator(measure, {"bayes_accuracy": ACCURACY, "marginal_nats": NATS})
