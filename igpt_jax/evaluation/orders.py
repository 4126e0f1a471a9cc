"""How well an any-order model predicts in different orders, and how far its conditional distributions agree.

In every order, the product of the conditional probabilities is a normalised distribution over images. An ideal model
has the same one in all orders; the gaps say how far a model is from that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax import progress
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.objectives import batch_tokens, token_nats
from igpt_jax.parallel.mesh import put_batch, replicated, traced_on
from igpt_jax.sequence import ordered_inputs

Sums = dict[str, jax.Array]


def nats_in_order(
    model: ImageGPT, params: Any, tokens_BT: jax.Array, order_BT: jax.Array, class_id_B: jax.Array | None = None
) -> jax.Array:
    """float32 [B, T]: -log p of the token in each slot of an order, given those in earlier slots.

    Args:
      tokens_BT: int [B, T] in raster order.
      order_BT: int [B, T] or [1, T]: the grid position of each slot.
      class_id_B: int [B] for class-conditional models, -1 for no class.
    """
    order_BT = jnp.broadcast_to(order_BT, tokens_BT.shape)
    slots_BT = jnp.take_along_axis(tokens_BT, order_BT, axis=1)
    logits: Any = model.apply({"params": params}, ordered_inputs(slots_BT, order_BT, class_id_B))
    return token_nats(logits, slots_BT)


def random_orders(n: int, n_ctx: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Orders that all images share, and their swapped slots.

    Returns:
      int32 [n, T]; int32 [n], s for order i where its swapped form exchanges slots s and s + 1.
    """
    rng = np.random.default_rng((seed, n_ctx))
    orders = np.stack([rng.permutation(n_ctx) for _ in range(n)]).astype(np.int32)
    return orders, rng.integers(0, n_ctx - 1, n, dtype=np.int32)


class Orders:
    """Likelihood in raster order and in `train.eval_orders` random orders, which all images share.

    Yields, in nats per token but for the last:
      raster_nats, random_nats (mean over orders) and random_nats_sd (standard deviation over orders);
      mixture_nats: of the equal mixture of the random orders, a distribution as exact as each of them;
      order_gap: random_nats - raster_nats;
      swap_gap: the mean of |log p(a|S) p(b|S,a) - log p(b|S) p(a|S,b)|, where a and b are the contents of two adjacent
        slots of an order and S that of all earlier ones. It is 0 where the conditional distributions agree.
    """

    def __init__(self, context: EvalContext):
        cfg = context.model.cfg
        if not cfg.any_order:
            raise InputError("orders: this model reads images in raster order only; others need model.any_order")
        self._context = context
        n_ctx, m = cfg.n_ctx, context.cfg.train.eval_orders
        orders_MT, swaps_M = random_orders(m, n_ctx, context.cfg.seed)

        def sums(params: Any, batch: Mapping[str, jax.Array]) -> Sums:
            tokens_BT, weight_B = batch_tokens(context.palette, batch), batch["weight"]
            class_B = batch["label"] if cfg.cond_classes else None

            def nats(order_T: jax.Array) -> jax.Array:
                return nats_in_order(context.model, params, tokens_BT, order_T[None], class_B)

            def of_order(order_and_swap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                order_T, s = order_and_swap
                slot_T = jnp.arange(n_ctx)
                swapped_T = order_T[jnp.where(slot_T == s, s + 1, jnp.where(slot_T == s + 1, s, slot_T))]
                here_BT, there_BT = nats(order_T), nats(swapped_T)
                pair_T = (slot_T == s) | (slot_T == s + 1)
                gap_B = jnp.sum((here_BT - there_BT) * pair_T[None], axis=1)
                return jnp.mean(here_BT, axis=1), jnp.abs(gap_B)

            means_MB, gaps_MB = jax.lax.map(of_order, (jnp.asarray(orders_MT), jnp.asarray(swaps_M)))
            # the mixture's probability is the mean of the orders' probabilities
            log_p_MB = -n_ctx * means_MB
            mixture_B = (math.log(m) - jax.nn.logsumexp(log_p_MB, axis=0)) / n_ctx
            raster_B = jnp.mean(nats(jnp.arange(n_ctx)), axis=1)
            return {
                "orders": jnp.sum(means_MB * weight_B[None], axis=1),
                "swaps": jnp.sum(jnp.mean(gaps_MB, axis=0) * weight_B),
                "mixture": jnp.sum(mixture_B * weight_B),
                "raster": jnp.sum(raster_B * weight_B),
                "images": jnp.sum(weight_B),
            }

        self._sums = jax.jit(traced_on(context.mesh, sums), out_shardings=replicated(context.mesh))

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the figures of the class's docstring."""
        n, first, parts = len(self._context.held_out), 0, []
        for host in self._context.batches():
            progress.report("measuring orders", min(first, n), n)
            batch = put_batch(host, self._context.mesh)
            parts.append(self._sums(params, batch))
            first += len(batch["image"])
        progress.report("measuring orders", n, n)
        totals = jax.tree.map(lambda *x: np.sum(np.asarray(x, np.float64), axis=0), *jax.device_get(parts))
        orders_M = totals["orders"] / totals["images"]
        raster, mixture, swaps = (float(totals[k] / totals["images"]) for k in ("raster", "mixture", "swaps"))
        yield "raster_nats", raster
        yield "random_nats", float(orders_M.mean())
        yield "random_nats_sd", float(orders_M.std(ddof=1))
        yield "mixture_nats", mixture
        yield "order_gap", float(orders_M.mean()) - raster
        yield "swap_gap", swaps
