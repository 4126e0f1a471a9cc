"""A small network that guesses the next colour from its neighbours, for speculative decoding.

It draws with the noise of the model's own draw, so the two mostly agree (on emoji, for four colours of five, where the
colour above is right for one of two). What it guesses changes no image: `lookahead` keeps what the model draws itself.
"""

from __future__ import annotations

import functools
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from igpt_jax import progress
from igpt_jax.config import ModelConfig
from igpt_jax.files import replace_file
from igpt_jax.keys import fold_in, stream
from igpt_jax.parallel.mesh import replicated, traced_on
from igpt_jax.sequence import Example, Inputs

log = logging.getLogger(__name__)

DRAFT = "draft.npz"
"""The file in a workdir."""
UNITS = 128
"""Of the hidden layer."""
NEAR = ((0, 1), (1, 0), (1, -1), (1, 1), (0, 2), (2, 0), (1, -2), (1, 2), (0, 3), (2, 1), (2, -1), (3, 0))
"""Rows and columns back to the neighbours that are drawn first in raster order."""
FRAME_BEFORE = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
SLOTS, UPDATES = 2048, 4
"""How many slots each update of the weights reads, and updates on each batch."""
LEARNING_RATE = 3e-3


class Draft(NamedTuple):
    """Its weights, float32: one hidden layer of U units. K neighbours, A aligned values, W values of a prefix slot."""

    neighbours: jax.Array
    """[K, V + 1, U]; colour V is a neighbour that is outside, or is not drawn yet."""
    places: jax.Array
    """[T, U]."""
    output: jax.Array
    """[U, V]."""
    bias: jax.Array
    """[V]."""
    classes: jax.Array | None = None
    """[C + 1, U]; the last is that of no class."""
    aligned: jax.Array | None = None
    """[A, U]."""
    prefix: jax.Array | None = None
    """[W, U]; a pixel reads the patch that it lies in."""


class Given(NamedTuple):
    """What is known of images beside their colours: as the fields of `Prompt` and `Inputs`."""

    class_id: Any = None
    aligned: Any = None
    prefix: Any = None


def offsets(cfg: ModelConfig) -> np.ndarray:
    """int [K, 3]: frames, rows and columns back to each neighbour; those after it, too, for a model of any order."""
    here = [(0, *near) for near in NEAR] + [(0, -y, -x) for y, x in NEAR if cfg.any_order]
    return np.array(here + [(1, *near) for near in FRAME_BEFORE if cfg.n_frame > 1])


def neighbour_table(cfg: ModelConfig) -> np.ndarray:
    """int32 [T, K]: the grid position of each neighbour of each position; T for those outside."""
    grid = (cfg.n_frame, *cfg.grid[-2:])
    at = np.stack(np.unravel_index(np.arange(cfg.n_ctx), grid), axis=-1)[:, None] - offsets(cfg)[None]
    inside = ((at >= 0) & (at < grid)).all(axis=-1)
    return np.where(inside, np.ravel_multi_index(tuple(at.clip(0, np.array(grid) - 1).T), grid).T, cfg.n_ctx)


def draft_logits(
    cfg: ModelConfig, draft: Draft | None, neighbours_BK: jax.Array, targets_B: jax.Array, given: Given
) -> jax.Array:
    """float32 [B, V] of the colours of pixels.

    Args:
      draft: None for a guess that pixels are as those to the left and above.
      neighbours_BK: int, colours; V for those that are not known.
      targets_B: int, grid positions.
      given: of each pixel's image.
    """
    v = cfg.vocab_size
    if draft is None:
        return ALIKE * jax.nn.one_hot(neighbours_BK[:, :2], v, dtype=jnp.float32).sum(axis=1)
    rows_1K = jnp.arange(neighbours_BK.shape[1])[None] * (v + 1)
    hidden_BU = draft.neighbours.reshape(-1, UNITS)[rows_1K + neighbours_BK].sum(axis=1) + draft.places[targets_B]
    if draft.classes is not None:
        hidden_BU += draft.classes[given.class_id]  # -1 reads the last
    if draft.aligned is not None:
        hidden_BU += jnp.take_along_axis(given.aligned, targets_B[:, None, None], axis=1)[:, 0] @ draft.aligned
    if draft.prefix is not None:
        patch_B = patch_of(cfg)[targets_B]
        hidden_BU += jnp.take_along_axis(given.prefix, patch_B[:, None, None], axis=1)[:, 0] @ draft.prefix
    return jax.nn.relu(hidden_BU) @ draft.output + draft.bias[None]


ALIKE = 4.0
"""Log-odds of a colour that a neighbour has, where there is no network."""


def patch_of(cfg: ModelConfig) -> jax.Array:
    """int [T]: the prefix slot that holds the patch of each position."""
    columns, side = cfg.grid[-1], round((cfg.n_ctx / cfg.prefix_slots) ** 0.5)
    y, x = np.divmod(np.arange(cfg.n_ctx), columns)
    return jnp.asarray(y // side * (columns // side) + x // side)


def fit_draft(
    cfg: ModelConfig,
    example: Callable[[Any, jax.Array], Example],
    batches: Iterator[Any],
    steps: int,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> Draft:
    """The network that learns from so many batches what the model learns from them.

    Args:
      example: (batch, one key an image) -> what the model reads and predicts.
      batches: on the devices, those of `mesh`.

    Returns:
      The same on all processes, in numpy.
    """
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, steps * UPDATES)
    optimizer = optax.adam(schedule)
    draft: Any = init_draft(cfg, stream(seed, "draft"))

    def learn(state: tuple[Any, Any], batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[Any, Any]:
        n = batch["image"].shape[0]
        read = example(batch, fold_in(key, jnp.arange(n)))

        def update(state: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
            slots = jax.random.randint(key, (n, -(-SLOTS // n)), 0, cfg.n_ctx)
            grads: Any = jax.grad(lambda draft: draft_loss(cfg, draft, read, slots))(state[0])
            updates, opt_state = optimizer.update(grads, state[1])
            return (optax.apply_updates(state[0], updates), opt_state), None

        return jax.lax.scan(update, state, jax.random.split(fold_in(key, n), UPDATES))[0]

    learn_jitted = jax.jit(traced_on(mesh, learn), out_shardings=None if mesh is None else replicated(mesh))
    state = draft, optimizer.init(draft)
    for step in range(steps):
        progress.report("fitting the network that guesses colours", step, steps)
        state = learn_jitted(state, next(batches), fold_in(stream(seed, "draft"), step))
    progress.report("fitting the network that guesses colours", steps, steps)
    return jax.device_get(state[0])


def init_draft(cfg: ModelConfig, key: jax.Array) -> Draft:
    """Random weights; all colours are alike at first."""
    k, v = len(offsets(cfg)), cfg.vocab_size
    normal = functools.partial(jax.random.normal, dtype=jnp.float32)

    def zeros(rows: int) -> jax.Array | None:
        return jnp.zeros((rows, UNITS), jnp.float32) if rows else None

    return Draft(
        normal(key, (k, v + 1, UNITS)) * k**-0.5,
        jnp.zeros((cfg.n_ctx, UNITS), jnp.float32),
        jnp.zeros((UNITS, v), jnp.float32),
        jnp.zeros(v, jnp.float32),
        zeros(cfg.cond_classes and cfg.cond_classes + 1),
        zeros(cfg.aligned_values),
        zeros(cfg.prefix_values),
    )


def draft_loss(cfg: ModelConfig, draft: Draft, example: Example, slots_BS: jax.Array) -> jax.Array:
    """Nats of the colours of some slots, each predicted from those of earlier slots."""
    inputs, labels_BT = example.inputs, example.labels
    order_BT = jnp.broadcast_to(inputs.target, labels_BT.shape)
    slot_of_BT = jnp.argsort(order_BT, axis=1)
    raster_BT = jnp.take_along_axis(labels_BT, slot_of_BT, axis=1)
    targets_BS = jnp.take_along_axis(order_BT, slots_BS, axis=1)
    positions_BSK = jnp.asarray(neighbour_table(cfg))[targets_BS]

    def at(x_BT: jax.Array, outside: int) -> jax.Array:
        padded = jnp.pad(x_BT, ((0, 0), (0, 1)), constant_values=outside)
        return jax.vmap(lambda x, where: x[where])(padded, positions_BSK)

    is_known = at(slot_of_BT, cfg.n_ctx) < slots_BS[..., None]
    neighbours_BSK = jnp.where(is_known, at(raster_BT, cfg.vocab_size), cfg.vocab_size)
    given = given_of(inputs)
    logits = jax.vmap(functools.partial(draft_logits, cfg, draft), in_axes=(1, 1, None), out_axes=1)(
        neighbours_BSK, targets_BS, given
    )
    labels_BS, weights_BS = (jnp.take_along_axis(x, slots_BS, axis=1) for x in (labels_BT, example.weights))
    nats_BS = optax.softmax_cross_entropy_with_integer_labels(logits, labels_BS)
    return (nats_BS * weights_BS).sum() / jnp.maximum(weights_BS.sum(), 1)


def given_of(inputs: Inputs) -> Given:
    """What is known of the images of a batch."""
    return Given(inputs.class_id, inputs.aligned, inputs.prefix)


def save_draft(draft: Draft, workdir: Path) -> None:
    """Writes `draft.npz`, whole or not at all."""
    with replace_file(workdir / DRAFT) as file:
        np.savez(file, **{name: x for name, x in draft._asdict().items() if x is not None})


def load_draft(workdir: Path, cfg: ModelConfig) -> Draft | None:
    """The network of a workdir; None if it has none, or if the file is damaged, with a line in the log."""
    path = workdir / DRAFT
    if not path.exists():
        return None
    wanted = jax.eval_shape(lambda: init_draft(cfg, jax.random.key(0)))
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            draft = Draft(**dict(file))
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s); images are drawn without it, and take longer", path, error)
        return None
    if jax.tree.map(np.shape, draft) != jax.tree.map(np.shape, wanted):
        log.warning("%s is of another model; images are drawn without it, and take longer", path)
        return None
    return draft
