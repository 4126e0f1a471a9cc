"""Decoding with a BERT model: unknown pixels are filled in over several passes, each of which sees all so far."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from igpt_jax.keys import fold_in
from igpt_jax.model import ImageGPT
from igpt_jax.model.axes import Params
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules, draw
from igpt_jax.sequence import masked_inputs


@functools.partial(jax.jit, static_argnames=("model", "passes", "by_confidence"))
def unmask(
    model: ImageGPT,
    params: Params,
    prompt: Prompt,
    keys_B: jax.Array,
    rules: Rules,
    passes: int,
    by_confidence: bool = False,
) -> jax.Array:
    """Draws the unknown tokens in a number of passes.

    With as many passes as there are unknown tokens, each pass draws one, and the draws are those of an any-order model
    (ARDM). With fewer passes, several tokens are drawn at once, as if they were independent.

    Args:
      prompt: of B images; `order` has the known positions first, and says which unknown ones are drawn in which pass.
      passes: of an image with fewer unknown tokens, the first so many.
      keys_B: one PRNG key an image. Position t is drawn with fold_in(key, t).
      by_confidence: instead of by `order`, each pass keeps those draws that the model gave most probability, few at
        first (the cosine schedule of MaskGIT: Chang et al., 2022, section 3.2).

    Returns:
      int32 [B, T] in raster order.
    """
    tokens_BT, known_BT, order_BT = prompt[:3]
    b, t = tokens_BT.shape
    unknown_B = jnp.sum(~known_BT, axis=1, dtype=jnp.int32)
    passes_B = jnp.clip(unknown_B, 1, passes)  # so that other images of the batch change nothing
    rank_BT = jnp.argsort(order_BT, axis=1) - (t - unknown_B)[:, None]  # 0 for the first unknown one
    keys_BT = fold_in(keys_B[:, None], jnp.arange(t)[None])

    def one_pass(state: tuple[jax.Array, jax.Array], i: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        tokens_BT, seen_BT = state
        logits: Any = model.apply({"params": params}, masked_inputs(tokens_BT, seen_BT))
        drawn_BT = draw(logits.reshape(b * t, -1), keys_BT.reshape(-1), rules).reshape(b, t)
        if by_confidence:
            left_B = jnp.cos(jnp.float32(jnp.pi / 2) * (i + 1) / passes_B)  # share that stays unknown after this pass
            keep_B = unknown_B - jnp.floor(left_B * unknown_B).astype(jnp.int32)
            log_p_BT = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn_BT[..., None], axis=-1)[..., 0]
            sorted_BT = jnp.argsort(jnp.where(seen_BT, jnp.inf, log_p_BT), axis=1, descending=True)
            place_BT = jnp.argsort(sorted_BT, axis=1)
            now_BT = (place_BT < (t - unknown_B + keep_B)[:, None]) | (i >= passes_B - 1)[:, None]
        else:
            now_BT = rank_BT * passes_B[:, None] // jnp.maximum(unknown_B, 1)[:, None] == i
        now_BT &= ~seen_BT
        return (jnp.where(now_BT, drawn_BT, tokens_BT), seen_BT | now_BT), None

    (tokens_BT, _), _ = jax.lax.scan(
        one_pass, (tokens_BT.astype(jnp.int32), known_BT), jnp.arange(passes, dtype=jnp.int32)
    )
    return tokens_BT
