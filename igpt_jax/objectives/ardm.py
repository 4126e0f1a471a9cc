"""Masked-pixel prediction at every mask rate, which makes a BERT model an any-order one (ARDM: Hoogeboom et al., 2021).

A model that predicts masked pixels at all rates can draw an image pixel by pixel in any order, and the sum of its
log-probabilities over one order is an exact log-likelihood.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from igpt_jax.config import Config
from igpt_jax.objectives.base import Batch, Objective, batch_tokens, check_model, image_weights
from igpt_jax.objectives.bert import EVAL_MASKS
from igpt_jax.palette import Palette
from igpt_jax.sequence import Example, masked_inputs


def make_ardm(cfg: Config, palette: Palette) -> Objective:
    """The mean of -log p over an image's masked tokens, in nats; how many are masked is uniform in 1..T.

    In expectation over masks this is the mean over all orders of the exact nats per token.
    """
    model = cfg.model
    check_model(model, "ardm", causal=False)

    def example(batch: Batch, keys_B: jax.Array) -> Example:
        tokens_BT = batch_tokens(palette, batch)
        visible_BT = draw_visible(keys_B, model.n_ctx)
        share_B = image_weights(batch) / jnp.sum(~visible_BT, axis=1)
        return Example(masked_inputs(tokens_BT, visible_BT), tokens_BT, ~visible_BT * share_B[:, None])

    return Objective(
        example,
        "nats_per_token",
        draws=EVAL_MASKS,
        pictures=("inpaintings", "reconstructions") if len(model.grid) == 2 else ("reconstructions",),
        # no pixel masked: one of the rates trained on
        feature_inputs=lambda tokens_BT, keys_B: masked_inputs(tokens_BT),
    )


def draw_visible(keys_B: jax.Array, n_ctx: int) -> jax.Array:
    """bool [B, T]: which tokens the model sees; 0 to T - 1 of them, all counts alike, all choices alike."""

    def one(key: jax.Array) -> jax.Array:
        count_key, place_key = jax.random.split(key)
        return jax.random.permutation(place_key, n_ctx) < jax.random.randint(count_key, (), 0, n_ctx)

    return jax.vmap(one)(keys_B)
