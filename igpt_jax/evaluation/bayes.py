"""The generative classifier: Bayes' rule on the likelihoods that a class-conditional model gives an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax import progress
from igpt_jax.data.sources.base import class_counts
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext, eval_keys
from igpt_jax.evaluation.standard_error import mean_error
from igpt_jax.keys import stream
from igpt_jax.objectives import score
from igpt_jax.parallel.mesh import put_batch, replicated, traced_on


class Bayes:
    """Which class c makes log p(image | c) + log p(c) largest, and the likelihood of images whose class is not told.

    p(c) is the share of the class among the training images, or the same for all where the source does not know it.
    Each image takes as many passes as there are classes.

    Attributes:
      right: float64 [M], 1 where a held-out image was named rightly, 0 where wrongly, NaN where it has no label; once
        `run` has ended. None without labels.

    Raises:
      InputError: the model is not class-conditional.
    """

    def __init__(self, context: EvalContext) -> None:
        cfg, objective, model = context.model.cfg, context.objective, context.model
        if not cfg.cond_classes:
            raise InputError("bayes: this model is not told classes; train one with model.cond_classes")
        self._context = context
        self.right: np.ndarray | None = None
        counts = np.zeros(cfg.cond_classes)
        known = class_counts(context.data.train)
        counts[: len(known) or None] = known or 1
        with np.errstate(divide="ignore"):  # of a class without images
            log_prior_C = jnp.asarray(np.log(counts / counts.sum()), jnp.float32)
        key = stream(context.cfg.seed, "eval")

        def joint(params: Any, batch: Mapping[str, jax.Array], first: jax.Array) -> tuple[jax.Array, jax.Array]:
            keys_B = eval_keys(key, first, len(batch["image"]), 0)

            def of_class(c: jax.Array) -> jax.Array:
                example = objective.example({**batch, "told": jnp.full_like(batch["label"], c)}, keys_B)
                return -score(model, params, example, objective.loss_name).images.value * cfg.n_ctx

            joint_CB = jax.lax.map(of_class, jnp.arange(cfg.cond_classes)) + log_prior_C[:, None]
            return joint_CB, batch["label"]

        self._joint = jax.jit(traced_on(context.mesh, joint), out_shardings=replicated(context.mesh))

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields bayes_accuracy on the labelled images; and mixture_nats_per_token, -log sum_c p(c) p(image | c) / T.

        Both have standard errors over groups of images.
        """
        first, n, parts = 0, len(self._context.held_out), []
        for host in self._context.batches():
            progress.report("comparing classes", min(first, n), n)
            batch = put_batch(host, self._context.mesh)
            parts.append(jax.device_get(self._joint(params, batch, np.int32(first))))
            first += len(batch["image"])
        progress.report("comparing classes", n, n)
        joint_CM, label_M = (np.concatenate(part, axis=-1)[..., :n] for part in zip(*parts, strict=True))
        joint_CM, groups = joint_CM.astype(np.float64), self._context.groups
        if (label_M >= 0).any():
            self.right = right = np.where(label_M >= 0, joint_CM.argmax(axis=0) == label_M, np.nan)
            yield "bayes_accuracy", float(np.nanmean(right))
            yield "bayes_accuracy_se", mean_error(right, groups)
        nats = -np.logaddexp.reduce(joint_CM, axis=0) / self._context.model.cfg.n_ctx
        yield "mixture_nats_per_token", float(nats.mean())
        yield "mixture_bits_per_token", float(nats.mean() / math.log(2))
        yield "mixture_nats_per_token_se", mean_error(nats, groups)
