"""Next-pixel prediction in many orders, so that any part of an image can be predicted from any other.

The mixture of orders is our own choice. Related published work: NADE and MADE variants with random orders, LMConv
(2020), autoregressive diffusion (ARDM, 2021), and for image tokens RAR and RandAR (2024).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from igpt_jax.config import Config, OrdersConfig
from igpt_jax.errors import require
from igpt_jax.holes import any_hole
from igpt_jax.objectives.base import Batch, Objective, batch_tokens, check_model, class_cond, image_weights
from igpt_jax.palette import Palette
from igpt_jax.sequence import Example, ordered_inputs

EVALUATORS = ("likelihood", "orders", "holes")


def make_any_order(cfg: Config, palette: Palette) -> Objective:
    """The mean of -log p over all T tokens, each image in an order of its own, in nats.

    Orders are drawn anew in every pass, in evaluation too, in the shares that `cfg.orders` says. A class-conditional
    model reads the label. Start from raster weights where there are any: they then compute the same in raster order.
    """
    model = cfg.model
    require(model.any_order, "model.any_order", "must be True for objective 'any_order'")
    check_model(model, "any_order", causal=True)

    def example(batch: Batch, keys_B: jax.Array) -> Example:
        order_BT = draw_orders(keys_B, model.grid, cfg.orders)
        slots_BT = jnp.take_along_axis(batch_tokens(palette, batch), order_BT, axis=1)
        inputs = ordered_inputs(slots_BT, order_BT, class_cond(model, batch))
        weights_BT = jnp.broadcast_to(image_weights(batch)[:, None] / model.n_ctx, slots_BT.shape)
        return Example(inputs, slots_BT, weights_BT)

    second = "inpaintings" if len(model.grid) == 2 else "completions"  # holes are of pictures
    return Objective(example, "nats_per_token", evaluators=EVALUATORS, pictures=("samples", second))


def draw_orders(keys_B: jax.Array, grid: tuple[int, ...], shares: OrdersConfig) -> jax.Array:
    """int32 [B, T]: an order for each image.

    raster: row by row. masked: a random hole, all known positions in raster order, then all unknown ones; that is 2^T
    orders. random: any of the T! orders alike.
    """
    weights = jnp.array([shares.raster, shares.masked, shares.random])

    def one(key: jax.Array) -> jax.Array:
        kind_key, order_key = jax.random.split(key)
        hole_T = any_hole(order_key, grid).reshape(-1)
        raster_T = jnp.arange(hole_T.size)
        masked_T = raster_T + hole_T * hole_T.size
        random_T = jax.random.permutation(order_key, hole_T.size)
        kind = jax.random.categorical(kind_key, jnp.log(weights))
        return jnp.argsort(jnp.stack([raster_T, masked_T, random_T])[kind])

    return jax.vmap(one)(keys_B)
