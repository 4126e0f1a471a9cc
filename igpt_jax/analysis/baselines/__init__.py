"""Cheap models of the same tokens, to compare a trained model with: they are asked what the objective asks of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.analysis.baselines.counts import count_nats, histogram_nats, masked_count_nats
from igpt_jax.analysis.baselines.network import Masked, network_nats
from igpt_jax.data.sources.base import Source, validation_mask
from igpt_jax.datasets import subset
from igpt_jax.evaluation.base import EachImage, EvalContext, read_images
from igpt_jax.keys import fold_in
from igpt_jax.objectives import batch_tokens

COUNTED_TOKENS = 20_000_000
"""Tokens of training images that the baselines learn from, at most."""
VALIDATION = 0.1
"""Share of these images on which the network stops learning."""


class Asked(NamedTuple):
    """What an objective asks of images, in D draws of its masks."""

    tokens: np.ndarray
    """int32 [n, *grid]."""
    weights: np.ndarray
    """float32 [D, n, *grid]: what each token counts in the loss."""
    seen: np.ndarray
    """bool [D, n, *grid]: which tokens a model that is not causal sees. These methods do not predict them."""


def cheap_nats(context: EvalContext, network: bool = False) -> dict[str, EachImage]:
    """The objective's loss in nats of every held-out image, by cheap methods; none where it is not in nats.

    Every process computes all of them. They learn from mirrored images, too, if the model does. A causal model stands
    beside methods that go row by row, another one beside methods behind its masks, and, where its loss is a likelihood
    of whole images, row by row, too. A small `network` on the neighbours of each pixel takes minutes to train; for ARDM
    there are two.
    """
    objective, size = context.objective, context.palette.size
    if objective.loss_figure.unit != "nats":
        return {}
    counted, validation = learning_images(context, network)
    behind_masks = not context.model.cfg.causal
    asked = read_asked(context, context.held_out, range(objective.draws))
    # of training images methods that go row by row need the tokens alone
    train = read_asked(context, counted, range(objective.draws, 2 * objective.draws) if behind_masks else ())
    if context.cfg.data.flip:
        train = Asked(*(np.concatenate([x, x[..., ::-1]], axis=-1 - len(context.model.cfg.grid)) for x in train))
        validation = None if validation is None else np.tile(validation, 2)
    row_by_row = Asked(asked.tokens, asked.weights, asked.seen & False)
    found = _masked(context, train, asked, validation) if behind_masks else {}
    if behind_masks and objective.loss_name != "nats_per_token":
        return found
    order = ""
    if behind_masks:  # a likelihood of the whole image
        order, row_by_row = ", row by row", row_by_row._replace(weights=np.ones_like(asked.weights[:1]))
    nats = {}
    if validation is not None:
        learned = network_nats(train.tokens, asked.tokens, validation, context.palette, context.cfg.seed)
        nats[f"network of neighbours{order}"] = learned
    nats[f"counts of neighbours{order}"] = count_nats(train.tokens, asked.tokens, size)
    if not behind_masks:
        nats["per-pixel histograms"] = histogram_nats(train.tokens, asked.tokens, size)
        nats["uniform"] = np.full(asked.tokens.shape, math.log(size))
    return found | {name: _of_images(values[None], row_by_row) for name, values in nats.items()}


def _masked(context: EvalContext, train: Asked, asked: Asked, validation: np.ndarray | None) -> dict[str, EachImage]:
    """Methods that see what the model sees, behind the same masks. As many masks of each training image are counted."""
    objective, size, grid = context.objective, context.palette.size, asked.tokens.shape[1:]
    draws = objective.draws
    many_train, many = (np.concatenate([x.tokens] * draws) for x in (train, asked))
    seen_train, seen = (x.seen.reshape(-1, *grid) for x in (train, asked))
    nats = {}
    if validation is not None:
        masked = Masked(lambda keys: _visible(context, keys), seen)
        learned = network_nats(train.tokens, many, validation, context.palette, context.cfg.seed, masked=masked)
        nats["network of visible neighbours"] = learned
    nats["counts of visible neighbours"] = masked_count_nats(many_train, seen_train, many, seen, size)
    nats["per-pixel histograms"] = histogram_nats(train.tokens, many, size)
    nats["uniform"] = np.full(many.shape, math.log(size))
    return {name: _of_images(values.reshape(asked.seen.shape), asked) for name, values in nats.items()}


def _visible(context: EvalContext, keys_B: jax.Array) -> jax.Array:
    """bool [B, T]: which tokens of training images a model that is not causal sees."""
    cfg, n = context.cfg, len(keys_B)
    blank = {"image": jnp.zeros((n, *cfg.model.grid, cfg.data.channels), jnp.uint8), "label": jnp.full(n, -1)}
    return context.objective.example(blank, keys_B).inputs.fed


def _of_images(nats: np.ndarray, asked: Asked) -> EachImage:
    """The mean over each image's tokens and draws, weighted as the loss is. float [D or 1, n, *grid]."""
    weights = np.where(asked.seen, 0, asked.weights).astype(np.float64)
    axes = (0, *range(2, weights.ndim))
    weight = weights.sum(axis=axes)
    return EachImage((nats * weights).sum(axis=axes) / np.where(weight > 0, weight, np.nan), weight)


def learning_images(context: EvalContext, network: bool) -> tuple[Source, np.ndarray | None]:
    """The training images that the baselines learn from; bool [n], those on which the network stops, or None. They
    may be too few for the network: an InputError."""
    counted = subset(context.data.train, max(1, COUNTED_TOKENS // context.model.cfg.n_ctx))
    return counted, validation_mask(counted, VALIDATION) if network else None


def read_asked(context: EvalContext, source: Source, draws: Sequence[int]) -> Asked:
    """What the objective asks of all images of a source, on every process."""
    objective, palette, grid = context.objective, context.palette, context.model.cfg.grid

    def read(batch: Mapping[str, jax.Array], keys_B: jax.Array) -> Any:
        tokens_BT = batch_tokens(palette, batch)
        row_B1 = jnp.arange(len(tokens_BT))[:, None]

        def one(draw: jax.Array) -> tuple[jax.Array, jax.Array]:
            inputs, _, weights_BT, *_ = objective.example(batch, fold_in(keys_B, draw))
            target_BT, source_BT, fed_BT = (
                jnp.broadcast_to(x, tokens_BT.shape) for x in (inputs.target, inputs.source, inputs.fed)
            )
            weights = jnp.zeros(tokens_BT.shape).at[row_B1, target_BT].add(weights_BT)
            return weights, jnp.zeros(tokens_BT.shape, bool).at[row_B1, source_BT].max(fed_BT)

        drawn = jax.lax.map(one, jnp.asarray(draws, jnp.int32))
        weights, seen = (jnp.swapaxes(x, 0, 1) for x in drawn)
        return tokens_BT, weights, seen

    tokens, weights, seen = read_images(context, source, read)
    n = len(tokens)
    return Asked(tokens.reshape(n, *grid), *(x.swapaxes(0, 1).reshape(len(draws), n, *grid) for x in (weights, seen)))
