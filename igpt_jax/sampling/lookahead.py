"""Exact sampling in fewer passes: guess the next colours, check them all in one pass, keep what is right.

The noise of a draw depends on the image and the position alone. So the colour of a slot is a function of the colours of
earlier slots, and a whole image is the fixed point of that function: the image that decoding one slot after another
draws. A pass computes this function for a window of slots from guesses. Up to the first guess that was wrong, its
results are final, and after it they are better guesses (Song et al., 2020, "Accelerating Feedforward Computation via
Parallel Nonlinear Equation Solving"; Wiggers and Hoogeboom, 2020, "Predictive Sampling with Forecasting Autoregressive
Models"). Each pass settles at least one slot.

A pass of many slots rounds differently from one of a single slot. A draw could differ only where two colours are equal
but for rounding.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igpt_jax.keys import fold_in
from igpt_jax.model import Cache, ImageGPT, grow_cache
from igpt_jax.model.axes import Params
from igpt_jax.sampling.decode import decoding_weights, prefill
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules, draw
from igpt_jax.sequence import Inputs


class Ahead(NamedTuple):
    """What is carried from pass to pass. Slots T and beyond are there so that windows always fit; nobody reads them."""

    tokens: jax.Array
    """int32 [B, T + W] in slot order: settled ones, then guesses."""
    settled: jax.Array
    """int32 [B]: how many slots are final."""
    guessed: jax.Array
    """int32 [B]: slots before this one have a guess from an earlier pass."""
    cache: Cache
    """Rows of settled slots are final; a pass overwrites those of its window."""
    passes: jax.Array
    """int32 [B]: until the image was settled."""


@functools.partial(jax.jit, static_argnames=("model", "start", "window"))
def decode_ahead(
    model: ImageGPT, params: Params, prompt: Prompt, keys_B: jax.Array, rules: Rules, start: int, window: int
) -> tuple[jax.Array, jax.Array]:
    """The images that `decode` draws from the same arguments, with fewer passes of the model.

    Args:
      window: W, how many slots one pass computes, at least 1. A pass costs little more than that of one slot where
        reading the weights takes most of the time: small batches on accelerators.

    Returns:
      int32 [B, T] in raster order, and int32 [B]: how many passes each image took, at most T. The program runs until
      the slowest image of the batch is done.
    """
    tokens_BT, known_BT, order_BT, class_B, prefix_GPW, aligned_BTA = prompt
    b, t = tokens_BT.shape
    if order_BT is None:
        order_BT = jnp.broadcast_to(jnp.arange(t)[None], (b, t))
    order_BT = order_BT.astype(jnp.int32)  # whatever jax_enable_x64 says
    tokens_BT, known_BT = (jnp.take_along_axis(x, order_BT, axis=1) for x in (tokens_BT.astype(jnp.int32), known_BT))
    tokens_BT = jnp.where(known_BT, tokens_BT, 0)
    slot_of_BT = jnp.argsort(order_BT, axis=1)
    variables = {"params": decoding_weights(model, params)}
    p = model.cfg.prefix_slots

    def one_pass(last: Ahead) -> Ahead:
        slots_BW = last.settled[:, None] + jnp.arange(window)[None]
        targets_BW = at_slots(order_BT, slots_BW)
        known_BW, known_token_BW = at_slots(known_BT, slots_BW), at_slots(tokens_BT, slots_BW)
        has_above_BW = targets_BW >= model.cfg.grid[-1]
        above_BW = jnp.where(has_above_BW, at_slots(slot_of_BT, targets_BW - model.cfg.grid[-1]), t + window)
        guess_BW = jnp.where(known_BW, known_token_BW, guesses(last, slots_BW, above_BW))
        newest_B1 = at_slots(last.tokens, last.settled[:, None] - 1)
        fed_BW = jnp.concatenate([newest_B1, guess_BW[:, :-1]], axis=1)
        begins_BW = slots_BW == 0
        sources_BW = at_slots(order_BT, slots_BW - 1)
        inputs = Inputs(fed_BW, ~begins_BW, begins_BW, targets_BW, sources_BW, class_B, aligned=aligned_BTA)
        extended: Any = model.apply(variables, inputs, last.cache, p + last.settled, method="extend")
        keys_BW = fold_in(keys_B[:, None], targets_BW)
        drawn_BW = jax.vmap(draw, in_axes=(1, 1, None), out_axes=1)(extended[0], keys_BW, rules)
        drawn_BW = jnp.where(known_BW, known_token_BW, drawn_BW)

        right_BW = jnp.cumprod(guess_BW == drawn_BW, axis=1)[:, :-1]  # what the next slot was fed is right
        settled_B = jnp.minimum(last.settled + 1 + right_BW.sum(axis=1), t)
        tokens_BS = jax.vmap(lambda x, new, at: jax.lax.dynamic_update_slice(x, new, (at,)))(
            last.tokens, drawn_BW, last.settled
        )
        passes_B = last.passes + (last.settled < t)
        return Ahead(tokens_BS, settled_B, last.settled + window, extended[1], passes_B)

    prefilled = prefill(model, variables, tokens_BT[:, :start], order_BT[:, :start], class_B, prefix_GPW, aligned_BTA)
    settled_B = jnp.full(b, start, jnp.int32)
    state = Ahead(
        tokens=jnp.pad(tokens_BT, ((0, 0), (0, window))),
        settled=settled_B,
        guessed=settled_B,
        cache=grow_cache(prefilled.cache, p + t + window),
        passes=jnp.zeros(b, jnp.int32),
    )
    state = jax.lax.while_loop(lambda state: (state.settled < t).any(), one_pass, state)
    return jnp.take_along_axis(state.tokens[:, :t], slot_of_BT, axis=1), state.passes


def guesses(last: Ahead, slots_BW: jax.Array, above_BW: jax.Array) -> jax.Array:
    """int32 [B, W]: the last pass's colours; for a slot that is new, the colour above it, or the one settled last.

    Args:
      above_BW: the slot of the position above; T + W for none.
    """
    guessed_B1 = last.guessed[:, None]
    newest_B1 = at_slots(last.tokens, last.settled[:, None] - 1)
    first_BW = jnp.where(above_BW < guessed_B1, at_slots(last.tokens, above_BW), newest_B1)
    return jnp.where(slots_BW < guessed_B1, at_slots(last.tokens, slots_BW), first_BW)


def at_slots(x_BS: jax.Array, slots_BW: jax.Array) -> jax.Array:
    """Of each image, the values of its slots: [B, W]. A slot that is not there reads the first or the last one."""
    return jnp.take_along_axis(x_BS, slots_BW.clip(0, x_BS.shape[1] - 1), axis=1)
