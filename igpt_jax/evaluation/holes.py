"""How well a model predicts the inside of a hole, where everything outside is known.

Every held-out image gets a hole of its own, drawn from its own key: brush strokes, and a square in the centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from igpt_jax import holes
from igpt_jax.evaluation.base import EvalContext, Evaluator
from igpt_jax.evaluation.orders import nats_in_order
from igpt_jax.objectives import NATS, batch_tokens, class_cond

HOLES: dict[str, holes.Hole] = {"centre": holes.centre, "brush": holes.brush}


def make_holes(context: EvalContext) -> Evaluator:
    """Nats per missing pixel of a causal model, each image's mean, then the mean over images.

    For each kind of hole, the model reads the pixels before a missing one in raster order (clamp), and, if it is an
    any-order model, also all known pixels before the first missing one (known first). For an ideal model the second is
    no worse, because it knows more.
    """
    model, cfg = context.model, context.model.cfg
    ways = ("clamp", "known_first") if cfg.any_order else ("clamp",)

    def measure(params: Any, batch: Mapping[str, jax.Array], keys_B: jax.Array) -> dict[str, Any]:
        tokens_BT, measured = batch_tokens(context.palette, batch), {}
        for name, make in HOLES.items():
            hole_BT = jax.vmap(lambda key, make=make: make(key, cfg.grid).reshape(-1))(keys_B)
            orders = {"clamp": jnp.arange(cfg.n_ctx)[None], "known_first": jnp.argsort(hole_BT, axis=1)}
            for way in ways:
                order_BT = jnp.broadcast_to(orders[way], hole_BT.shape)
                nats_BT = nats_in_order(model, params, tokens_BT, order_BT, class_cond(cfg, batch))
                missing_BT = jnp.take_along_axis(hole_BT, order_BT, axis=1)
                mean_B = jnp.sum(nats_BT * missing_BT, axis=1) / jnp.maximum(jnp.sum(missing_BT, axis=1), 1)
                measured[f"{name}_nats_{way}"] = mean_B, batch["weight"]
        return measured

    return Evaluator(measure, {f"{name}_nats_{way}": NATS for name in HOLES for way in ways})
