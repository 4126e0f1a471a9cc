"""Speculative decoding: guess the next colours, verify them all in one pass, keep the correct prefix.

The noise of a draw depends on the image and the position alone. So the colour of a slot is a function of the colours of
earlier slots, and a whole image is the fixed point of that function: the image that decoding one slot after another
draws. A pass computes this function for a window of slots from guesses. Up to the first wrong guess, its results are
final (Song et al., 2020, "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving"; Wiggers and
Hoogeboom, 2020, "Predictive Sampling with Forecasting Autoregressive Models"). Each pass settles at least one slot.

A small network of neighbours guesses, with the same noise (`draft`). Where an earlier pass has read a slot already, the
guess starts from the model's logits of that pass, and the network says only what its new neighbours change.

A pass of many slots rounds differently from one of a single slot. A draw could differ only where two colours are equal
but for rounding.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from igpt_jax.keys import fold_in
from igpt_jax.model import Cache, ImageGPT, grow_cache
from igpt_jax.model.axes import Params
from igpt_jax.sampling.decode import decoding_weights, in_slots, prefill, segment_ends
from igpt_jax.sampling.draft import Draft, Given, draft_logits, neighbour_table
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules, choose, noise
from igpt_jax.sequence import Inputs


def window_for(lookahead: int | Literal["auto"], platform: str, images: int, n_ctx: int) -> int:
    """How many slots a pass computes, for `SamplerConfig.lookahead`; 0 for one slot after another, without guesses.

    auto: an accelerator that draws few images waits for its memory, and has time for many slots; larger batches were
    not measured there. On CPUs guesses pay where a pass reads a long cache. Short sequences are drawn in less time than
    the larger program takes to compile.
    """
    if lookahead != "auto":
        return lookahead
    if platform != "cpu":
        return 16 if images <= 16 else 0
    if n_ctx < 512:
        return 0
    return 16 if images == 1 else 8


SMALLEST = 4
"""Images that are not done go on in a half and a quarter of the batch. Each size compiles a loop."""


class Asked(NamedTuple):
    """What stays the same of images while they are drawn."""

    order: jax.Array
    """int32 [B, T]; this and the next two in slot order."""
    token: jax.Array
    """int32 [B, T]: read where known."""
    known: jax.Array
    """bool [B, T]."""
    keys: jax.Array
    """One PRNG key an image, [B]."""
    given: Given


class Ahead(NamedTuple):
    """What is carried from pass to pass."""

    colors: jax.Array
    """int32 [B, T + 1]: the colour of each grid position; V where it is not settled, and at T, for outside."""
    settled: jax.Array
    """int32 [B]: how many slots are final."""
    correction: jax.Array
    """float32 [B, W, V], from slot `settled` on: the logits of the pass that read it last, minus the network's then; 0
    where no pass has."""
    cache: Cache
    """Rows of settled slots are final; a pass overwrites those of its window."""
    passes: jax.Array
    """int32 [B]: until the image was settled."""


@functools.partial(jax.jit, static_argnames=("model", "start", "window", "is_split"))
def decode_ahead(
    model: ImageGPT,
    params: Params,
    prompt: Prompt,
    keys_B: jax.Array,
    rules: Rules,
    start: int,
    window: int,
    draft: Draft | None = None,
    is_split: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The images that `decode` draws from the same arguments, with fewer passes of the model.

    Args:
      window: W, how many slots one pass computes, at least 1.
      draft: the network that guesses; None for a guess that neighbours are alike.
      is_split: whether the images lie on several devices. If not, finished images leave the batch: whenever half of
        them are done, the others go on in a batch of half the size.

    Returns:
      int32 [B, T] in raster order, and int32 [B]: how many passes each image took, at most T.
    """
    tokens_BT, known_BT, order_BT = in_slots(prompt)
    b, t = tokens_BT.shape
    class_B, prefix_GPW, aligned_BTA = prompt[3:]
    prefix_BPW = None if prefix_GPW is None else jnp.repeat(prefix_GPW, b // len(prefix_GPW), axis=0)
    asked = Asked(order_BT, tokens_BT, known_BT, keys_B, Given(class_B, aligned_BTA, prefix_BPW))
    variables, p = {"params": decoding_weights(model, params)}, model.cfg.prefix_slots
    prefilled = prefill(model, variables, tokens_BT[:, :start], order_BT[:, :start], class_B, prefix_GPW, aligned_BTA)
    nothing_BS = jnp.full((b, t + 1), model.cfg.vocab_size, jnp.int32)
    state = Ahead(
        colors=jax.vmap(lambda x, at, new: x.at[at].set(new))(nothing_BS, order_BT[:, :start], tokens_BT[:, :start]),
        settled=jnp.full(b, start, jnp.int32),
        correction=jnp.zeros((b, window, model.cfg.vocab_size), jnp.float32),
        cache=prefilled.cache,
        passes=jnp.zeros(b, jnp.int32),
    )
    one_pass = functools.partial(read_window, model, variables, rules, draft)

    def go_on(asked: Asked, state: Ahead, room: int | None, unfinished: int = 0) -> Ahead:
        """Passes while a window fits into `room` slots of every image, and more than so many are unfinished."""

        def more(state: Ahead) -> jax.Array:
            is_open_B = state.settled < t
            fits = True if room is None else (jnp.where(is_open_B, state.settled, 0) + window <= room).all()
            return (is_open_B.sum() > unfinished) & fits

        return jax.lax.while_loop(more, functools.partial(one_pass, asked), state)

    def finish(asked: Asked, state: Ahead) -> Ahead:
        """All images to their end; from time to time, without those that are done."""
        half, together = len(state.settled) // 2, 2 if "guidance" in rules else 1
        if is_split or half % together or half < max(1, b // SMALLEST):
            return go_on(asked, state, None)
        state = go_on(asked, state, None, unfinished=half)
        rows = jnp.argsort(state.settled >= t, stable=True)[:half]
        rest = finish(*jax.tree.map(lambda x: x[rows], (asked, state)))
        colors, passes = state.colors.at[rows].set(rest.colors), state.passes.at[rows].set(rest.passes)
        return state._replace(colors=colors, passes=passes)

    for room in [end for end in segment_ends(t)[1:-1:2] if end >= start + window]:  # each compiles a loop, too
        state = go_on(asked, state._replace(cache=grow_cache(state.cache, p + room)), room)
    state = finish(asked, state._replace(cache=grow_cache(state.cache, p + t + window)))
    return state.colors[:, :t], state.passes


def read_window(model: ImageGPT, variables: Any, rules: Rules, draft: Draft | None, asked: Asked, last: Ahead) -> Ahead:
    """One pass: guesses the window's colours, reads them, draws, and keeps what follows correct ones."""
    (b, t), window = asked.order.shape, last.correction.shape[1]
    slots_BW = last.settled[:, None] + jnp.arange(window, dtype=jnp.int32)[None]
    targets_BW, sources_BW = at_slots(asked.order, slots_BW), at_slots(asked.order, slots_BW - 1)
    known_BW, known_token_BW = at_slots(asked.known, slots_BW), at_slots(asked.token, slots_BW)
    noise_BWV = noise(fold_in(asked.keys[:, None], targets_BW), model.cfg.vocab_size)
    table_TK, images_B = jnp.asarray(neighbour_table(model.cfg)), jnp.arange(b)

    def guess(colors_BS: jax.Array, xs: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        target_B, known_B, known_token_B, correction_BV, noise_BV = xs
        neighbours_BK = jnp.take_along_axis(colors_BS, table_TK[target_B], axis=1)
        logits_BV = draft_logits(model.cfg, draft, neighbours_BK, target_B, asked.given)
        token_B = jnp.where(known_B, known_token_B, choose(logits_BV + correction_BV, noise_BV, rules))
        return colors_BS.at[images_B, target_B].set(token_B), (token_B, logits_BV)

    per_slot = (targets_BW, known_BW, known_token_BW, last.correction, noise_BWV)
    by_slot = jax.tree.map(lambda x: x.swapaxes(0, 1), per_slot)
    guess_BW, guessed_BWV = (x.swapaxes(0, 1) for x in jax.lax.scan(guess, last.colors, by_slot)[1])

    newest_B1 = jnp.take_along_axis(last.colors, sources_BW[:, :1], axis=1)
    fed_BW = jnp.concatenate([newest_B1, guess_BW[:, :-1]], axis=1)
    begins_BW = slots_BW == 0
    slots = fed_BW, ~begins_BW, begins_BW, targets_BW, sources_BW
    inputs = Inputs(*slots, class_id=asked.given.class_id, aligned=asked.given.aligned)
    extended: Any = model.apply(variables, inputs, last.cache, model.cfg.prefix_slots + last.settled, method="extend")
    drawn_BW = jax.vmap(choose, in_axes=(1, 1, None), out_axes=1)(extended[0], noise_BWV, rules)
    drawn_BW = jnp.where(known_BW, known_token_BW, drawn_BW)

    correct_BW = jnp.cumprod(guess_BW == drawn_BW, axis=1)[:, :-1]  # what the next slot was fed is correct
    settled_B = jnp.minimum(last.settled + 1 + correct_BW.sum(axis=1, dtype=jnp.int32), t)
    outside = t + 1  # of the array: dropped
    at_BW = jnp.where(slots_BW < settled_B[:, None], targets_BW, outside)
    colors_BS = last.colors.at[images_B[:, None], at_BW].set(drawn_BW, mode="drop")
    moved_BW = jnp.arange(window)[None] + (settled_B - last.settled)[:, None]
    correction_BWV = jnp.take_along_axis(extended[0] - guessed_BWV, moved_BW[..., None] % window, axis=1)
    correction_BWV = jnp.where((moved_BW < window)[..., None], correction_BWV, 0)
    return Ahead(colors_BS, settled_B, correction_BWV, extended[1], last.passes + (last.settled < t))


def at_slots(x_BT: jax.Array, slots_BW: jax.Array) -> jax.Array:
    """Of each image, the values of its slots: [B, W]. A slot that is not there reads the first or the last one."""
    return jnp.take_along_axis(x_BT, slots_BW.clip(0, x_BT.shape[1] - 1), axis=1)
