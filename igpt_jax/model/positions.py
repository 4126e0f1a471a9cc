"""How slots know where they are: one row of `POSITIONS` for each way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from igpt_jax.config import ModelConfig
from igpt_jax.model.axes import add_parameters


class Table(NamedTuple):
    """An array [rows, D], or the vector [D]: the spread of its first values, and how many rows a model has of it."""

    std: float
    rows: Callable[[ModelConfig], int]


class Places(NamedTuple):
    """Grid positions of slots, int [B, T] or [1, T], in raster order; -1 for none (prefix slots, a start's source)."""

    target: jax.Array
    source: jax.Array


Add = Callable[[Mapping[str, jax.Array], jax.Array, jax.Array], jax.Array]
"""(the model's tables, slots [B, T, D], positions int [B, T]) -> the slots with something added."""


def _nothing(tables: Mapping[str, jax.Array], x_BTD: jax.Array, at_BT: jax.Array) -> jax.Array:
    return x_BTD


@dataclass(frozen=True)
class Positions:
    """One way: what is added to a slot before the blocks, and what turns its query and key inside them.

    A row of one's own passes its `axes` and `optional` (`AXES`, `OPTIONAL`) to `add_parameters`, too.
    """

    tables: Mapping[str, Table] = field(default_factory=dict)
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    add_source: Add = _nothing
    """To what a slot is fed of a colour; nothing is left of it where the slot is fed none."""
    add_target: Add = _nothing
    """To every slot but those of a prefix."""
    turn: Callable[[ModelConfig, jax.Array, jax.Array], jax.Array] | None = None
    """(cfg, x [B, T, H, K], positions int [B, T]) -> the same shape. Queries are turned by their slot's target, keys by
    its source (`Places`); keys are cached turned, so every attention backend serves."""


def _add_source(tables: Mapping[str, jax.Array], x_BTD: jax.Array, source_BT: jax.Array) -> jax.Array:
    return x_BTD + tables["wpe_source"][source_BT] if "wpe_source" in tables else x_BTD


def _add_target(tables: Mapping[str, jax.Array], x_BTD: jax.Array, target_BT: jax.Array) -> jax.Array:
    frame, place = jnp.divmod(target_BT, tables["wpe"].shape[0])
    x_BTD = x_BTD + tables["wpe"][place]
    return x_BTD + tables["wpe_frame"][frame] if "wpe_frame" in tables else x_BTD


LEARNED = Positions(
    tables={
        "wpe": Table(0.01, lambda cfg: cfg.n_ctx // cfg.n_frame),
        "wpe_source": Table(0.0, lambda cfg: cfg.n_ctx if cfg.any_order else 0),
        "wpe_frame": Table(0.0, lambda cfg: cfg.n_frame if cfg.n_frame > 1 else 0),
    },
    axes={"wpe": ("position", "embed"), "wpe_source": ("position", "embed"), "wpe_frame": ("frame", "embed")},
    optional=frozenset({"wpe_source", "wpe_frame"}),
    add_source=_add_source,
    add_target=_add_target,
)
"""A vector for each position of the grid (release). Those of sources and frames are zero at first."""

POSITIONS: dict[str, Positions] = {"learned": LEARNED}
"""model.positions -> the way."""

for _row in POSITIONS.values():
    add_parameters(_row.axes, _row.optional)
