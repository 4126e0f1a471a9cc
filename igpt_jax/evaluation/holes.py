"""How well a model predicts the inside of a hole, where everything outside is known.

Every held-out image gets a hole of its own, drawn from its own key: brush strokes, and a square in the centre.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax import holes, progress
from igpt_jax.evaluation.base import EvalContext, eval_keys
from igpt_jax.evaluation.orders import nats_in_order
from igpt_jax.keys import stream
from igpt_jax.objectives import batch_tokens
from igpt_jax.parallel.mesh import put_batch, replicated, traced_on

HOLES: dict[str, holes.Hole] = {"centre": holes.centre, "brush": holes.brush}


class Holes:
    """Nats per missing pixel of a causal model, each image's mean, then the mean over images.

    For each kind of hole, the model reads the pixels before a missing one in raster order (clamp), and, if it is an
    any-order model, also all known pixels before the first missing one (known first). For an ideal model the second is
    no worse, because it knows more.
    """

    def __init__(self, context: EvalContext):
        self._context, cfg = context, context.model.cfg
        key = stream(context.cfg.seed, "eval")

        def sums(params: Any, batch: Mapping[str, jax.Array], first: jax.Array) -> dict[str, jax.Array]:
            tokens_BT, weight_B = batch_tokens(context.palette, batch), batch["weight"]
            class_B = batch["label"] if cfg.cond_classes else None
            keys_B = eval_keys(key, first, len(weight_B), 0)
            out = {"images": jnp.sum(weight_B)}
            for name, make in HOLES.items():
                hole_BT = jax.vmap(lambda key, make=make: make(key, cfg.grid).reshape(-1))(keys_B)
                orders = {"clamp": jnp.arange(cfg.n_ctx)[None]}
                if cfg.any_order:
                    orders["known_first"] = jnp.argsort(hole_BT, axis=1)
                for way, order_BT in orders.items():
                    nats_BT = nats_in_order(context.model, params, tokens_BT, order_BT, class_B)
                    missing_BT = jnp.take_along_axis(hole_BT, jnp.broadcast_to(order_BT, hole_BT.shape), axis=1)
                    mean_B = jnp.sum(nats_BT * missing_BT, axis=1) / jnp.maximum(jnp.sum(missing_BT, axis=1), 1)
                    out[f"{name}_nats_{way}"] = jnp.sum(mean_B * weight_B)
            return out

        self._sums = jax.jit(traced_on(context.mesh, sums), out_shardings=replicated(context.mesh))

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields centre_nats_clamp, brush_nats_clamp and, of any-order models, the same with known_first."""
        n, first, parts = len(self._context.held_out), 0, []
        for host in self._context.batches():
            progress.report("measuring holes", min(first, n), n)
            batch = put_batch(host, self._context.mesh)
            parts.append(self._sums(params, batch, np.int32(first)))
            first += len(batch["image"])
        progress.report("measuring holes", n, n)
        totals = jax.tree.map(lambda *x: np.sum(np.asarray(x, np.float64)), *jax.device_get(parts))
        images = totals.pop("images")
        for name, total in totals.items():
            yield name, float(total / images)
