"""How slots know where they are: one row of `POSITIONS` for each way."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from igpt_jax.config import ModelConfig


class Places(NamedTuple):
    """Grid positions of slots, int [B, T] or [1, T], in raster order; -1 for none (prefix slots, a start's source)."""

    target: jax.Array
    source: jax.Array


class Positions(NamedTuple):
    """One way to tell a slot its target and its source (`Inputs`)."""

    learned: bool = False
    """Whether vectors of tables are added to the slots: `wpe`, and for other orders and clips `wpe_source`, `wpe_frame`
    (release)."""
    turn: Callable[[ModelConfig, jax.Array, jax.Array], jax.Array] | None = None
    """(cfg, x [B, T, H, K], positions int [B, T]) -> the same shape. Queries are turned by their slot's target, keys by
    its source (`Places`); keys are cached turned, so every attention backend serves."""


POSITIONS: dict[str, Positions] = {"learned": Positions(learned=True)}
"""model.positions -> the way."""
