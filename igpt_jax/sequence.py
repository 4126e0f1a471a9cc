"""Slots: what the decoder reads, and what an objective asks of it.

A slot is one place of the sequence. It is fed a colour (or the start vector, or nothing) and predicts the colour of one
target position of the grid. Raster order, masked prediction and any other order are different contents of the same
slots; the decoder knows none of them. Dims: B image, T slot, P prefix slot, W values of a prefix slot.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Inputs(NamedTuple):
    """The slots of a batch. Arrays are [B, T], or [1, T] where all images agree."""

    token: jax.Array
    """int: the colour that the slot is fed; ignored where `fed` is False."""
    fed: jax.Array
    """bool: False for a slot that is fed nothing: a start slot, or a pixel that BERT does not see."""
    start: jax.Array
    """bool: True where the slot is fed the start vector, plus the class's vector if there is one."""
    target: jax.Array
    """int: the grid position whose colour the slot predicts, in raster order."""
    source: jax.Array
    """int: the grid position that the fed colour comes from. Only read by models with `any_order`."""
    class_id: jax.Array | None = None
    """int [B]: the class of each image, -1 for none."""
    prefix: jax.Array | None = None
    """float [B, P, W]: what the prefix slots are fed; they stand before the other slots."""


class Example(NamedTuple):
    """What an objective makes of a batch, before the model sees it."""

    inputs: Inputs
    labels: jax.Array
    """int [B, T]: the colour of each slot's target."""
    weights: jax.Array
    """float32 [B, T]: what each slot counts in the loss; 0 for padding and for slots that are not scored."""
    class_label: jax.Array | None = None
    """int [B]: the class to predict; None if the objective does not classify."""
    class_weight: jax.Array | None = None
    """float32 [B]: what each image counts in the classification loss."""


def raster_inputs(tokens_BT: jax.Array, class_id_B: jax.Array | None = None) -> Inputs:
    """Slots in raster order, as in the release: slot t is fed the colour of pixel t - 1 and predicts pixel t.

    Args:
      tokens_BT: int [B, T], T at most the number of positions.
      class_id_B: int [B] for class-conditional models, -1 for no class.
    """
    t = jnp.arange(tokens_BT.shape[1])[None]
    return ordered_inputs(tokens_BT, t, class_id_B)


def ordered_inputs(tokens_BT: jax.Array, order_BT: jax.Array, class_id_B: jax.Array | None = None) -> Inputs:
    """Slots in another order: slot t predicts position `order[t]` and is fed the colour of position `order[t - 1]`.

    Args:
      tokens_BT: int [B, T], the colours in slot order: `tokens[b, t]` is the colour of position `order[b, t]`.
      order_BT: int [B, T] or [1, T], each row without repetitions.
      class_id_B: as for `raster_inputs`.
    """
    first_T = jnp.arange(tokens_BT.shape[1])[None] == 0
    return Inputs(
        token=_previous(tokens_BT),
        fed=~first_T,
        start=first_T,
        target=order_BT,
        source=_previous(order_BT),
        class_id=class_id_B,
    )


def masked_inputs(tokens_BT: jax.Array, visible_BT: jax.Array | None = None) -> Inputs:
    """Slots for BERT: slot t is fed pixel t, if it is visible, and predicts pixel t.

    Args:
      tokens_BT: int [B, T].
      visible_BT: bool [B, T], False for blanked pixels; None if all are visible.
    """
    t = jnp.arange(tokens_BT.shape[1])[None]
    everywhere_T = jnp.ones(t.shape, bool)
    return Inputs(
        token=tokens_BT,
        fed=everywhere_T if visible_BT is None else visible_BT,
        start=~everywhere_T,
        target=t,
        source=t,
    )


def _previous(x_BT: jax.Array) -> jax.Array:
    """x[:, t - 1] in slot t; 0 in slot 0."""
    return jnp.pad(x_BT[:, :-1], ((0, 0), (1, 0)))
