"""Next-pixel prediction (paper section 2.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from igpt_jax.config import Config
from igpt_jax.objectives.base import Batch, Objective, batch_tokens, check_model, class_cond, image_weights
from igpt_jax.palette import Palette
from igpt_jax.sequence import Example, raster_inputs


def make_ar(cfg: Config, palette: Palette) -> Objective:
    """The mean of -log p over all T tokens, the first included, in nats. A class-conditional model reads the label."""
    model = cfg.model
    check_model(model, "ar", causal=True)

    def example(batch: Batch, keys_B: jax.Array) -> Example:
        del keys_B  # nothing is drawn
        tokens_BT = batch_tokens(palette, batch)
        inputs = raster_inputs(tokens_BT, class_cond(model, batch))
        weights_BT = jnp.broadcast_to(image_weights(batch)[:, None] / model.n_ctx, tokens_BT.shape)
        return Example(inputs, tokens_BT, weights_BT)

    return Objective(example, "nats_per_token")
