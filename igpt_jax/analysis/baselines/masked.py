"""Cheap models of masked tokens, which see what a BERT or ARDM model sees, behind the same masks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.analysis.baselines.counts import histogram_nats, masked_count_nats
from igpt_jax.analysis.baselines.network import Masked, network_nats
from igpt_jax.evaluation.base import EvalContext, eval_keys
from igpt_jax.keys import stream


def masked_baselines(
    context: EvalContext, train: np.ndarray, held_out: np.ndarray, validation: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Name -> float64 [M], the nats per masked token of each held-out image, averaged as the objective does.

    NaN for images that no mask blanks a token of.

    Args:
      train: int [N, *grid], palette ids; as many masks of each are counted as a held-out image has.
      held_out: int [M, *grid].
      validation: bool [N]: train a small network on the visible neighbours, too, and stop it by these images.
    """
    objective, size, seed = context.objective, context.palette.size, context.cfg.seed
    masks, n_ctx = objective.masks, context.model.cfg.n_ctx
    assert masks is not None
    draws, key = range(objective.draws), stream(seed, "eval")
    draw = jax.jit(lambda keys: masks(keys, n_ctx))

    def seen(tokens: np.ndarray, first: int) -> np.ndarray:
        drawn = [np.asarray(draw(eval_keys(key, jnp.int32(0), len(tokens), first + i))) for i in draws]
        return np.concatenate(drawn).reshape(-1, *tokens.shape[1:])

    seen_train, seen_held_out = seen(train, len(draws)), seen(held_out, 0)  # the second as the model is measured
    many_train, many_held_out = (np.concatenate([tokens] * len(draws)) for tokens in (train, held_out))
    nats = {}
    if validation is not None:
        masked = Masked(draw, seen_held_out)
        learned = network_nats(train, many_held_out, validation, context.palette, seed, masked=masked)
        nats["network of visible neighbours"] = learned
    nats["counts of visible neighbours"] = masked_count_nats(many_train, seen_train, many_held_out, seen_held_out, size)
    nats["per-pixel histograms"] = histogram_nats(train, many_held_out, size)
    nats["uniform"] = np.full(many_held_out.shape, math.log(size))
    hidden = ~seen_held_out.reshape(len(draws), len(held_out), -1)
    count = hidden.sum(axis=2)
    blanked = (count > 0).sum(axis=0)

    def of_images(values: np.ndarray) -> np.ndarray:
        means = np.sum(values.reshape(hidden.shape) * hidden, axis=2, dtype=np.float64) / np.maximum(count, 1)
        return means.sum(axis=0) / np.where(blanked > 0, blanked, np.nan)

    return {name: of_images(values) for name, values in nats.items()}
