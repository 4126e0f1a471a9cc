"""How well a causal model predicts in different orders, and inside holes whose outside is known.

In every order, the product of the conditional probabilities is a normalised distribution over images. An ideal model
has the same one in all orders; the gaps say how far a model is from that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EachImage, EvalContext, Evaluator
from igpt_jax.holes import Hole, brush, centre
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.objectives import NATS, batch_tokens, class_cond, token_nats
from igpt_jax.sequence import ordered_inputs


def nats_in_order(
    model: ImageGPT, params: Any, tokens_BT: jax.Array, order_BT: jax.Array, class_id_B: jax.Array | None = None
) -> jax.Array:
    """float32 [B, T]: -log p of the token in each slot of an order, given those in earlier slots.

    Tokens are in raster order. `order_BT`, int [B, T] or [1, T], has the grid position of each slot.
    """
    order_BT = jnp.broadcast_to(order_BT, tokens_BT.shape)
    slots_BT = jnp.take_along_axis(tokens_BT, order_BT, axis=1)
    logits: Any = model.apply({"params": params}, ordered_inputs(slots_BT, order_BT, class_id_B))
    return token_nats(logits, slots_BT)


def random_orders(n: int, n_ctx: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Orders that all images share, int32 [n, T]; and of each the slot s, int32 [n], that is swapped with s + 1."""
    rng = np.random.default_rng((seed, n_ctx))
    orders = np.stack([rng.permutation(n_ctx) for _ in range(n)]).astype(np.int32)
    return orders, rng.integers(0, n_ctx - 1, n, dtype=np.int32)


FIGURES = {
    "raster_nats": NATS,
    "random_nats": NATS,
    "random_nats_sd": NATS,
    "order_mixture_nats": NATS,
    "order_gap": NATS,
    "swap_gap": NATS,
}


def make_orders(context: EvalContext) -> Evaluator:
    """Likelihood in raster order and in `train.eval_orders` random orders, which all images share.

    In nats per token but for the last:
      raster_nats, random_nats (mean over orders) and random_nats_sd (standard deviation over orders);
      order_mixture_nats: of the equal mixture of the random orders, a distribution as exact as each of them;
      order_gap: random_nats - raster_nats;
      swap_gap: the mean of |log p(a|S) p(b|S,a) - log p(b|S) p(a|S,b)|, where a and b are the contents of two adjacent
        slots of an order and S that of all earlier ones. It is 0 where the conditional distributions agree.
    """
    model, cfg = context.model, context.model.cfg
    if not cfg.any_order:
        raise InputError("orders: this model reads images in raster order only; others need model.any_order")
    n_ctx, m = cfg.n_ctx, context.cfg.train.eval_orders
    orders_MT, swaps_M = random_orders(m, n_ctx, context.cfg.seed)

    def measure(params: Any, batch: Mapping[str, jax.Array], keys_B: jax.Array) -> dict[str, Any]:
        del keys_B  # all images share the orders
        tokens_BT, weight_B = batch_tokens(context.palette, batch), batch["weight"]

        def nats(order_T: jax.Array) -> jax.Array:
            return nats_in_order(model, params, tokens_BT, order_T[None], class_cond(cfg, batch))

        def of_order(order_and_swap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            order_T, s = order_and_swap
            slot_T = jnp.arange(n_ctx)
            swapped_T = order_T[jnp.where(slot_T == s, s + 1, jnp.where(slot_T == s + 1, s, slot_T))]
            here_BT, there_BT = nats(order_T), nats(swapped_T)
            pair_T = (slot_T == s) | (slot_T == s + 1)
            gap_B = jnp.sum((here_BT - there_BT) * pair_T[None], axis=1)
            return jnp.mean(here_BT, axis=1), jnp.abs(gap_B)

        means_MB, gaps_MB = jax.lax.map(of_order, (jnp.asarray(orders_MT), jnp.asarray(swaps_M)))
        raster_B, random_B = jnp.mean(nats(jnp.arange(n_ctx)), axis=1), jnp.mean(means_MB, axis=0)
        # the mixture's probability is the mean of the orders' probabilities
        mixture_B = (math.log(m) - jax.nn.logsumexp(-n_ctx * means_MB, axis=0)) / n_ctx
        measured = {
            "raster_nats": raster_B,
            "random_nats": random_B,
            "order_mixture_nats": mixture_B,
            "order_gap": random_B - raster_B,
            "swap_gap": jnp.mean(gaps_MB, axis=0),
        } | {f"order {i}": means_MB[i] for i in range(m)}
        return {name: (values_B, weight_B) for name, values_B in measured.items()}

    def derive(images: Mapping[str, EachImage]) -> dict[str, float]:
        orders_M = [images[f"order {i}"] for i in range(m)]
        means_M = [np.average(order.values, weights=order.weights) for order in orders_M]
        return {"random_nats_sd": float(np.std(means_M, ddof=1))}

    return Evaluator(measure, FIGURES, derive=derive)


HOLES: dict[str, Hole] = {"centre": centre, "brush": brush}


def make_holes(context: EvalContext) -> Evaluator:
    """Nats per missing pixel: each image's mean, then the mean over images. Every image has holes of its own.

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
