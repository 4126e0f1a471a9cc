"""Masked-pixel prediction (paper section 2.1; release, `src/model.py`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from igpt_jax.config import Config
from igpt_jax.objectives.base import Batch, Objective, batch_tokens, check_model, image_weights
from igpt_jax.palette import Palette
from igpt_jax.sequence import Example, masked_inputs

MASKED = 0.15
"""Probability with which a token is blanked (appendix A.1: 0.20 is as good, more is worse)."""

EVAL_MASKS = 5
"""Masks drawn for every held-out image (paper section 4.6)."""


def draw_visible(keys_B: jax.Array, n_ctx: int) -> jax.Array:
    """bool [B, T]: which tokens the model sees; each is blanked with probability 0.15, independently."""
    return jax.vmap(lambda key: jax.random.uniform(key, (n_ctx,)) > MASKED)(keys_B)


def make_bert(cfg: Config, palette: Palette) -> Objective:
    """The mean of -log p over an image's blanked tokens, then over images, in nats.

    Masks are drawn anew in every pass, in evaluation too. An image without a blanked token is left out.
    """
    model = cfg.model
    check_model(model, "bert", causal=False)

    def example(batch: Batch, keys_B: jax.Array) -> Example:
        tokens_BT = batch_tokens(palette, batch)
        visible_BT = draw_visible(keys_B, model.n_ctx)
        blanked_B = jnp.sum(~visible_BT, axis=1)
        share_B = image_weights(batch) * (blanked_B > 0) / jnp.maximum(blanked_B, 1)
        return Example(masked_inputs(tokens_BT, visible_BT), tokens_BT, ~visible_BT * share_B[:, None])

    return Objective(
        example,
        "nats_per_masked_token",
        draws=EVAL_MASKS,
        pictures=("reconstructions",),
        feature_inputs=lambda tokens_BT, keys_B: masked_inputs(tokens_BT, draw_visible(keys_B, model.n_ctx)),
        feature_draws=EVAL_MASKS,
    )
