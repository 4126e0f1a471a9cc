"""A small network that sees a few pixels around the next one: a minute's training, to compare a transformer with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from igpt_jax import progress
from igpt_jax.keys import fold_in
from igpt_jax.objectives import token_nats
from igpt_jax.palette import Palette

REACH = 4
"""Rows above and columns to each side that the network sees; in clips also as far around in the frame before."""
NEAR = 2
"""The same of a network that sees pixels on all sides, if few are hidden."""
FEW_HIDDEN = 0.25
"""So large a share of the pixels is few."""
WIDTH, EMBEDDING = 256, 16
"""Units of both hidden layers; numbers learnt for each colour, beside the colour itself."""
STEPS, BATCH = 3000, 2048
"""Optimizer steps; pixels in each."""
AVERAGED = 100
"""Weights are averaged over about the last tenth of the steps, at most over this many. Where the network stops early,
its learning rate is still high, and the average is far better than the last weights."""
VALIDATION_PIXELS = 8192
"""Pixels of validation pictures that choose the number of steps."""
CHUNK = 1 << 16
"""Held-out pixels that are measured at once."""
PADDING = ((0, 0), (1, 1), (REACH, REACH), (REACH, REACH))
"""Around the frames, rows and columns of pictures."""

Neighbours = tuple[jax.Array, jax.Array]
"""What the network is fed: the neighbours of pixels, int32 [B, K], and their positions, float32 [B, F + Y + X]."""


class Fitted(NamedTuple):
    """What training carries from step to step."""

    params: Any
    opt_state: Any
    average: Any
    """Averaged weights."""


class Masked(NamedTuple):
    """Of a network that predicts masked pixels from visible ones on all sides."""

    draw: Callable[[jax.Array], jax.Array]
    """One key a picture -> bool [B, T], which pixels are seen in training."""
    held_out_seen: np.ndarray
    """bool [M, *grid], which pixels of the held-out pictures are seen."""

    @property
    def reach(self) -> int:
        """Where few pixels are hidden, the nearest are enough, and a network of more learns less from each. On emoji
        with 15 % hidden the wide one is 0.01 nats worse than the near one; with half hidden, 0.04 better."""
        return NEAR if np.mean(~self.held_out_seen) <= FEW_HIDDEN else REACH


class NeighbourNetwork(nn.Module):
    """Two hidden layers on the colours of the neighbours and the position of the pixel."""

    palette: Palette
    masked: bool = False

    @nn.compact
    def __call__(self, tokens_BK: jax.Array, positions_BP: jax.Array) -> jax.Array:
        """Logits [B, V]. The token V stands for a place outside the picture, V + 1 for a masked one."""
        n, (size, channels) = len(tokens_BK), self.palette.centers.shape
        colors = np.zeros((size + 1 + self.masked, channels + 1), np.float32)
        colors[:size, :channels], colors[size, channels] = self.palette.centers, 1
        learned = nn.Embed(len(colors), EMBEDDING, embedding_init=nn.initializers.normal(1.0))(tokens_BK)
        x = jnp.concatenate([jnp.asarray(colors)[tokens_BK], learned], axis=-1).reshape(n, -1)
        x = jnp.concatenate([x, positions_BP], axis=-1)
        for _ in range(2):
            x = nn.gelu(nn.Dense(WIDTH)(x))
        return nn.Dense(size, kernel_init=nn.initializers.zeros)(x)


def network_nats(
    train: np.ndarray,
    held_out: np.ndarray,
    validation: np.ndarray,
    palette: Palette,
    seed: int = 0,
    steps: int = STEPS,
    masked: Masked | None = None,
) -> np.ndarray:
    """float32 [M, *grid]: nats of every held-out token (int [M, *grid]) under a network that learns on the pixels of
    `train`, int [N, *grid]; 0 for pixels that are not masked, if `masked`.

    Args:
      validation: bool [N], training pictures that the network does not learn from: they choose the number of steps.
      steps: optimizer steps (Adam, cosine schedule from 3e-3 to 0).
      masked: predict masked pixels; else each pixel from those before it.
    """
    shape = (-1, int(np.prod(train.shape[1:-2], dtype=int)), *train.shape[-2:])
    size, grid = palette.size, shape[1:]
    wanted = np.flatnonzero(~masked.held_out_seen) if masked else np.arange(held_out.size)
    seen = np.where(masked.held_out_seen, held_out, size + 1) if masked else held_out
    network: Any = NeighbourNetwork(palette, masked is not None)
    read = functools.partial(_read, _offsets(shape[1], masked), grid)
    parts = (train[validation], train[~validation], seen)
    chosen_on, fitted, asked = (jnp.asarray(_padded(x.reshape(shape), size)) for x in parts)
    key = jax.random.key(seed)
    draw = functools.partial(_draw, read=read, grid=grid, masked=masked, hidden=size + 1)

    chosen_by = draw(fold_in(key, 0), chosen_on, VALIDATION_PIXELS)
    best = _fit(network, functools.partial(draw, padded=fitted, n=BATCH), chosen_by, key, steps)
    measure = jax.jit(lambda params, at, labels_B: token_nats(network.apply(params, *read(asked, at)[0]), labels_B))
    nats = np.zeros(held_out.shape, np.float32)
    chunk = min(CHUNK, len(wanted))
    for first in range(0, len(wanted), CHUNK):
        at = wanted[np.minimum(first + np.arange(chunk), len(wanted) - 1)]
        nats.flat[at] = measure(best, at, held_out.flat[at])
    return nats


def _fit(
    network: Any,
    draw: Callable[[jax.Array], tuple[Neighbours, jax.Array]],
    chosen_by: tuple[Neighbours, jax.Array],
    key: jax.Array,
    steps: int,
) -> Any:
    """The averaged weights with the lowest loss on `chosen_by`, which is looked at every 100 steps. `draw` makes the
    pixels of a step from a key."""
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def loss(params: Any, inputs: Neighbours, labels_B: jax.Array) -> jax.Array:
        return token_nats(network.apply(params, *inputs), labels_B).mean()

    @jax.jit
    def run(state: Fitted, first: jax.Array) -> Fitted:
        def step(state: Fitted, i: jax.Array) -> tuple[Fitted, None]:
            grads = jax.grad(loss)(state.params, *draw(fold_in(key, 1 + i)))
            updates, opt_state = optimizer.update(grads, state.opt_state)
            params: Any = optax.apply_updates(state.params, updates)
            share = jnp.maximum(1 / AVERAGED, 10 / (10 + i)).astype(jnp.float32)
            average = optax.incremental_update(params, state.average, share)
            return Fitted(params, opt_state, average), None

        return jax.lax.scan(step, state, first + jnp.arange(min(steps, 100)))[0]

    validate = jax.jit(loss)
    params = jax.jit(network.init)(fold_in(key, 0), *chosen_by[0])
    state, best, lowest = Fitted(params, optimizer.init(params), params), params, float(validate(params, *chosen_by))
    for first in range(0, steps, 100):  # those past the end have a rate of 0
        progress.report("training the network of neighbours", first, steps)
        state = run(state, np.int32(first))
        if (measured := float(validate(state.average, *chosen_by))) < lowest:
            best, lowest = state.average, measured
    progress.report("training the network of neighbours", steps, steps)
    return best


def _draw(
    key: jax.Array,
    padded: jax.Array,
    n: int,
    *,
    read: Callable[[jax.Array, jax.Array], tuple[Neighbours, jax.Array]],
    grid: tuple[int, ...],
    masked: Masked | None,
    hidden: int,
) -> tuple[Neighbours, jax.Array]:
    """What the network is fed for n pixels at random, each behind a mask of its own if `masked`; and their colours."""
    at = jax.random.randint(key, (n,), 0, len(padded) * int(np.prod(grid)))
    (tokens_BK, positions_BP), labels_B = read(padded, at)
    if masked:
        visible_BFYX = masked.draw(jax.random.split(fold_in(key, 0), n)).reshape(n, *grid)
        own_place = jnp.arange(n) * int(np.prod(grid)) + at % int(np.prod(grid))
        visible_BK = read(jnp.pad(visible_BFYX, PADDING, constant_values=True), own_place)[0][0]
        tokens_BK = jnp.where(visible_BK > 0, tokens_BK, hidden)
    return (tokens_BK, positions_BP), labels_B


def _offsets(frames: int, masked: Masked | None) -> np.ndarray:
    """int [K, 3]: frames, rows and columns back to each pixel that is known before, or to those on all sides."""
    around, n = masked is not None, masked.reach if masked else REACH
    square = [(y, x) for y in range(-n, n + 1) for x in range(-n, n + 1)]
    here = [(0, y, x) for y, x in square if (y, x) > (0, 0) or (around and (y, x) < (0, 0))]
    others = [f for f in ((1, -1) if around else (1,)) if frames > 1]
    return np.array(here + [(f, y, x) for f in others for y, x in square])


def _padded(tokens_NFYX: np.ndarray, outside: int) -> np.ndarray:
    return np.pad(tokens_NFYX.astype(np.int32), PADDING, constant_values=outside)


def _read(offsets: np.ndarray, grid: tuple[int, ...], padded: jax.Array, at: jax.Array) -> tuple[Neighbours, jax.Array]:
    """Neighbours int32 [B, K] and positions float32 [B, F + Y + X] of numbered pixels; and their colours, int32 [B]."""
    image, *place = jnp.unravel_index(at, (padded.shape[0], *grid))
    f, y, x = place[0] + 1, place[1] + REACH, place[2] + REACH
    back = [offsets[None, :, i] for i in range(3)]
    tokens_BK = padded[image[:, None], f[:, None] - back[0], y[:, None] - back[1], x[:, None] - back[2]]
    one_hot = functools.partial(jax.nn.one_hot, dtype=jnp.float32)
    positions = jnp.concatenate([one_hot(p, n) for p, n in zip(place, grid, strict=True)], axis=-1)
    return (tokens_BK.astype(jnp.int32), positions), padded[image, f, y, x].astype(jnp.int32)
