"""A small network that sees a few pixels around the next one: a minute's training, to compare a transformer with."""

from __future__ import annotations

import functools
from typing import Any

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
WIDTH, EMBEDDING = 256, 16
"""Units of both hidden layers; numbers learnt for each colour, beside the colour itself."""
STEPS, BATCH = 3000, 2048
"""Optimizer steps; pixels in each."""


class NeighbourNetwork(nn.Module):
    """Two hidden layers on the colours of the neighbours and the position of the pixel."""

    palette: Palette

    @nn.compact
    def __call__(self, tokens_BK: jax.Array, positions_BP: jax.Array) -> jax.Array:
        """Logits [B, V]. The token V stands for a place outside the picture."""
        n, (size, channels) = len(tokens_BK), self.palette.centers.shape
        colors = np.zeros((size + 1, channels + 1), np.float32)
        colors[:size, :channels], colors[size, channels] = self.palette.centers, 1
        learned = nn.Embed(size + 1, EMBEDDING, embedding_init=nn.initializers.normal(1.0))(tokens_BK)
        x = jnp.concatenate([jnp.asarray(colors)[tokens_BK], learned], axis=-1).reshape(n, -1)
        x = jnp.concatenate([x, positions_BP], axis=-1)
        for _ in range(2):
            x = nn.gelu(nn.Dense(WIDTH)(x))
        return nn.Dense(size, kernel_init=nn.initializers.zeros)(x)


def network_nats(
    train: np.ndarray, held_out: np.ndarray, palette: Palette, seed: int = 0, steps: int = STEPS
) -> np.ndarray:
    """Nats of every held-out token under a network that learns on the pixels of `train`.

    Args:
      train: int [N, *grid], palette ids.
      held_out: int [M, *grid].
      seed: of the initial weights and of the pixels that are drawn.
      steps: optimizer steps (Adam, cosine schedule from 3e-3 to 0).

    Returns:
      float32 [M, *grid].
    """
    shape = (-1, int(np.prod(train.shape[1:-2], dtype=int)), *train.shape[-2:])
    train_NFYX, held_out_NFYX = train.reshape(shape), held_out.reshape(shape)
    network: Any = NeighbourNetwork(palette)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    read = functools.partial(_read, _offsets(shape[1]), shape[1:])
    padded, padded_held_out = (jnp.asarray(_padded(x, palette.size)) for x in (train_NFYX, held_out_NFYX))
    pixels = int(np.prod(train_NFYX.shape))
    key = jax.random.key(seed)
    params = jax.jit(network.init)(fold_in(key, 0), *read(padded, jnp.zeros(1, jnp.int32))[0])

    @jax.jit
    def run(state: tuple[optax.Params, optax.OptState], first: jax.Array) -> tuple[optax.Params, optax.OptState]:
        def step(state: tuple[optax.Params, optax.OptState], i: jax.Array):
            at = jax.random.randint(fold_in(key, 1 + i), (BATCH,), 0, pixels)
            inputs, labels = read(padded, at)
            grads = jax.grad(lambda p: token_nats(network.apply(p, *inputs), labels).mean())(state[0])
            updates, opt_state = optimizer.update(grads, state[1])
            return (optax.apply_updates(state[0], updates), opt_state), None

        return jax.lax.scan(step, state, first + jnp.arange(min(steps, 100)))[0]

    state = (params, optimizer.init(params))
    for first in range(0, steps, 100):  # those past the end have a rate of 0
        progress.report("training the network of neighbours", first, steps)
        state = run(state, np.int32(first))
    progress.report("training the network of neighbours", steps, steps)

    @jax.jit
    def measure(params: Any, at: jax.Array) -> jax.Array:
        inputs, labels = read(padded_held_out, at)
        return token_nats(network.apply(params, *inputs), labels)

    chunk, total = 1 << 16, held_out.size
    parts = [measure(state[0], jnp.minimum(first + jnp.arange(chunk), total - 1)) for first in range(0, total, chunk)]
    return np.concatenate(jax.device_get(parts))[:total].reshape(held_out.shape)


def _offsets(frames: int) -> np.ndarray:
    """int [K, 3]: frames, rows and columns back to each pixel that is known before."""
    reach = range(-REACH, REACH + 1)
    here = [(0, y, x) for y in range(REACH + 1) for x in reach if (y, x) > (0, 0)]
    before = [(1, y, x) for y in reach for x in reach] if frames > 1 else []
    return np.array(here + before)


def _padded(tokens_NFYX: np.ndarray, outside: int) -> np.ndarray:
    pad = ((0, 0), (1, 0), (REACH, REACH), (REACH, REACH))
    return np.pad(tokens_NFYX.astype(np.int32), pad, constant_values=outside)


def _read(
    offsets: np.ndarray, grid: tuple[int, ...], padded: jax.Array, at: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Neighbours int32 [B, K] and positions float32 [B, F + Y + X] of numbered pixels; and their colours, int32 [B]."""
    image, *place = jnp.unravel_index(at, (padded.shape[0], *grid))
    f, y, x = place[0] + 1, place[1] + REACH, place[2] + REACH
    back = [offsets[None, :, i] for i in range(3)]
    tokens_BK = padded[image[:, None], f[:, None] - back[0], y[:, None] - back[1], x[:, None] - back[2]]
    positions = jnp.concatenate([jax.nn.one_hot(p, n) for p, n in zip(place, grid, strict=True)], axis=-1)
    return (tokens_BK.astype(jnp.int32), positions), padded[image, f, y, x].astype(jnp.int32)
