"""Slots: what the decoder reads, and what an objective asks of it.

A slot is one place of the sequence. It is fed a colour (or the start vector, or nothing) and predicts the colour of one
target position of the grid. Raster order, masked prediction and any other order are different contents of the same
slots; the decoder knows none of them. Dims: B image, T slot, P prefix slot, W values of a prefix slot.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.config import ModelConfig
from igpt_jax.errors import InputError


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


def patch_side(cfg: ModelConfig, channels: int) -> int:
    """The side p, in pixels, of the square patches of a conditioning picture; each fills one prefix slot.

    Raises:
      InputError: the prefix slots do not hold a picture of the model's grid and of so many channels.
    """
    p = math.isqrt(cfg.prefix_values // channels)
    divides = len(cfg.grid) == 2 and p > 0 and all(n % p == 0 for n in cfg.grid)
    if divides and (cfg.prefix_slots, cfg.prefix_values) == (cfg.n_ctx // p**2, p**2 * channels):
        return p
    side = 1 if any(n % 2 for n in cfg.grid) else 2
    raise InputError(
        f"model.prefix_slots: {cfg.prefix_slots} slots of {cfg.prefix_values} values hold no picture of grid "
        f"{cfg.grid} with {channels} channel(s); for patches of {side} x {side} pixels set model.prefix_slots "
        f"{cfg.n_ctx // side**2} and model.prefix_values {side**2 * channels}"
    )


def patches(images: jax.Array | np.ndarray, side: int) -> jax.Array:
    """Pictures as prefix slots: float32 [B, P, side * side * C] in [-1, 1], patches in raster order.

    A slot holds its patch row by row, each pixel with its channels, as x / 127.5 - 1. No palette rounds it.

    Args:
      images: uint8 [B, Y, X, C]; `side` divides Y and X.
    """
    b, y, x, c = images.shape
    blocks = images.reshape(b, y // side, side, x // side, side, c).swapaxes(2, 3)
    return jnp.asarray(blocks.reshape(b, -1, side * side * c)).astype(jnp.float32) / 127.5 - 1


def _previous(x_BT: jax.Array) -> jax.Array:
    """x[:, t - 1] in slot t; 0 in slot 0."""
    return jnp.pad(x_BT[:, :-1], ((0, 0), (1, 0)))
