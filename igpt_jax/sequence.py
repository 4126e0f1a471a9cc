"""Slots: what the decoder reads, and what an objective asks of it.

A slot is one place of the sequence. It is fed a colour (or the start vector, or nothing) and predicts the colour of one
target position of the grid. Raster order, masked prediction and any other order are different contents of the same
slots; the decoder knows none of them. Dims: B image, T slot, P prefix slot, W values of a prefix slot, A aligned
values.
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
    aligned: jax.Array | None = None
    """float [B, n_ctx, A]: what a conditioning picture shows around each grid position. A slot is fed that of its
    target."""


class Example(NamedTuple):
    """What an objective makes of a batch."""

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
    """Slots in raster order, as in the release: slot t is fed the colour of pixel t - 1 and predicts pixel t."""
    t = jnp.arange(tokens_BT.shape[1])[None]
    return ordered_inputs(tokens_BT, t, class_id_B)


def ordered_inputs(tokens_BT: jax.Array, order_BT: jax.Array, class_id_B: jax.Array | None = None) -> Inputs:
    """Slots in another order: slot t predicts position `order[t]` and is fed the colour of position `order[t - 1]`.

    The tokens are in slot order, too: `tokens[b, t]` is the colour of position `order[b, t]`; the order may be [1, T].
    """
    first_T = jnp.arange(tokens_BT.shape[1])[None] == 0
    return Inputs(_previous(tokens_BT), ~first_T, first_T, order_BT, _previous(order_BT), class_id_B)


def masked_inputs(tokens_BT: jax.Array, visible_BT: jax.Array | None = None) -> Inputs:
    """Slots for BERT: slot t is fed pixel t, if it is visible (bool [B, T], None for all), and predicts pixel t."""
    t = jnp.arange(tokens_BT.shape[1])[None]
    everywhere_T = jnp.ones(t.shape, bool)
    return Inputs(tokens_BT, everywhere_T if visible_BT is None else visible_BT, ~everywhere_T, target=t, source=t)


def conditioning(cfg: ModelConfig, images: jax.Array | np.ndarray) -> dict[str, jax.Array]:
    """What a model reads of conditioning pictures, uint8 [B, *grid, C]: `prefix` and `aligned` of `Inputs`, or one."""
    read, channels = {}, images.shape[-1]
    if not cfg.has_conditioning:
        raise InputError(
            f"model.aligned_values: this model reads no degraded picture; set it to {49 * channels} (7 x 7 pixels "
            "around each target), or set model.prefix_slots and model.prefix_values (all of it)"
        )
    if cfg.prefix_slots:
        read["prefix"] = patches(images, patch_side(cfg, channels))
    if cfg.aligned_values:
        read["aligned"] = surroundings(images, window_side(cfg, channels))
    return read


def patch_side(cfg: ModelConfig, channels: int) -> int:
    """The side p, in pixels, of the square patches of a conditioning picture; each fills one prefix slot."""
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

    `images` are uint8 [B, Y, X, C], and `side` divides Y and X. A slot holds its patch row by row, each pixel with its
    channels, as x / 127.5 - 1. No palette rounds it.
    """
    b, y, x, c = images.shape
    blocks = images.reshape(b, y // side, side, x // side, side, c).swapaxes(2, 3)
    return jnp.asarray(blocks.reshape(b, -1, side * side * c)).astype(jnp.float32) / 127.5 - 1


def window_side(cfg: ModelConfig, channels: int) -> int:
    """The side, in pixels, of the square windows of a conditioning picture that slots are fed; it is odd."""
    side = math.isqrt(cfg.aligned_values // channels)
    if side % 2 and side**2 * channels == cfg.aligned_values and len(cfg.grid) == 2:
        return side
    raise InputError(
        f"model.aligned_values: {cfg.aligned_values} is no square window of an odd side with {channels} channel(s); "
        f"7 x 7 pixels are {49 * channels}"
    )


def surroundings(images: jax.Array | np.ndarray, side: int) -> jax.Array:
    """The window around every pixel of uint8 images [B, Y, X, C]: float32 [B, Y * X, side * side * C] in [-1, 1], in
    raster order, with edge padding."""
    b, y, x, c = images.shape
    r = side // 2
    padded = jnp.pad(jnp.asarray(images), ((0, 0), (r, r), (r, r), (0, 0)), mode="edge")
    shifted = [padded[:, dy : dy + y, dx : dx + x] for dy in range(side) for dx in range(side)]
    return jnp.stack(shifted, axis=3).reshape(b, y * x, side * side * c).astype(jnp.float32) / 127.5 - 1


def _previous(x_BT: jax.Array) -> jax.Array:
    """x[:, t - 1] in slot t; 0 in slot 0."""
    return jnp.pad(x_BT[:, :-1], ((0, 0), (1, 0)))
