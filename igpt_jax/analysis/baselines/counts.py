"""Counts of neighbouring pixels: the cheap model of discrete pixels that a trained one has to beat.

The longer context is trusted as far as it has been seen, and the next shorter one fills in (Witten and Bell, 1991, "The
zero-frequency problem", method C): p_k = (count + kinds p_(k-1)) / (total + kinds), where kinds is the number of
colours that followed the context in training. p_0 is uniform.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def count_nats(train: np.ndarray, held_out: np.ndarray, size: int) -> np.ndarray:
    """Nats of every held-out token, by counts on the tokens W, N, NE and NW of it; in clips on W, N, the same place in
    the frame before, NE and NW. Tokens of `size` colours, int [N, *grid] and [M, *grid], to float64 [M, *grid].
    """
    probs = blended_counts(
        [x.ravel() for x in neighbours(train, size)],
        train.ravel(),
        [x.ravel() for x in neighbours(held_out, size)],
        held_out.ravel(),
        size,
    )
    return -np.log(probs).reshape(held_out.shape)


def masked_count_nats(
    train: np.ndarray, train_seen: np.ndarray, held_out: np.ndarray, held_out_seen: np.ndarray, size: int
) -> np.ndarray:
    """Nats of the masked held-out tokens, by counts on the tokens W, E, N and S of it; in clips also on the same place
    in the frames before and after. "Masked" counts as one more colour of a neighbour.

    Int [N, *grid] and [M, *grid], each with bool "seen", to float64 [M, *grid], 0 where a token is seen. Tokens of
    `train` that are not seen are counted.
    """
    contexts = [
        neighbours(np.where(seen, x, size + 1), size, AROUND)
        for x, seen in ((train, train_seen), (held_out, held_out_seen))
    ]
    known, asked = (
        [x[~seen] for x in parts] for parts, seen in zip(contexts, (train_seen, held_out_seen), strict=True)
    )
    nats = np.zeros(held_out.shape)
    nats[~held_out_seen] = -np.log(blended_counts(known, train[~train_seen], asked, held_out[~held_out_seen], size))
    return nats


def histogram_nats(train: np.ndarray, held_out: np.ndarray, size: int) -> np.ndarray:
    """Nats of every held-out token by a histogram of the colours at its position in `train`, and one of each colour.

    int [N, *grid] and [M, *grid] to float64 [M, *grid].
    """
    train_NT, held_out_MT = train.reshape(len(train), -1), held_out.reshape(len(held_out), -1)
    at_T = np.arange(train_NT.shape[1])
    counts_TV = np.ones((len(at_T), size))
    np.add.at(counts_TV, (at_T[None], train_NT), 1)
    nats_TV = -np.log(counts_TV / counts_TV.sum(axis=1, keepdims=True))
    return nats_TV[at_T[None], held_out_MT].reshape(held_out.shape)


Offsets = Sequence[tuple[int, int, int]]
"""Frames, rows and columns back to each neighbour."""
BEFORE: Offsets = ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, -1), (0, 1, 1))
"""W, N, the frame before, NE, NW."""
AROUND: Offsets = ((0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0))
"""W, E, N, S, the frames before and after."""


def neighbours(tokens: np.ndarray, size: int, offsets: Offsets = BEFORE) -> list[np.ndarray]:
    """The contexts of each token, the most telling first: int [N, *grid] each, `size` where the picture ends. Those in
    other frames are left out where there is one."""
    clips = tokens.reshape(len(tokens), -1, *tokens.shape[-2:])
    frames, rows, columns = clips.shape[1:]
    padded = np.pad(clips, ((0, 0), (1, 1), (1, 1), (1, 1)), constant_values=size)
    parts = [
        padded[:, 1 - f : 1 - f + frames, 1 - y : 1 - y + rows, 1 - x : 1 - x + columns]
        for f, y, x in offsets
        if not f or frames > 1
    ]
    return [part.reshape(tokens.shape) for part in parts]


def blended_counts(
    known: Sequence[np.ndarray], labels: np.ndarray, asked: Sequence[np.ndarray], wanted: np.ndarray, size: int
) -> np.ndarray:
    """float64 [M]: the probability of each wanted colour; over all `size` colours they sum to 1.

    Args:
      known: the contexts of the labels, int [N] each; the first is trusted most.
      labels: int [N], the colours that are counted.
      asked: the contexts of the wanted colours (int [M]), int [M] each.
    """
    probs = np.full(len(wanted), 1 / size)
    context, query = np.zeros(len(labels), np.int64), np.zeros(len(wanted), np.int64)
    for i in range(len(known) + 1):
        if i:
            base = int(max(known[i - 1].max(), asked[i - 1].max())) + 1
            context, query = _numbered(context * base + known[i - 1], query * base + asked[i - 1])
        seen_context, total = np.unique(context, return_counts=True)
        seen_pair, count = np.unique(context * size + labels, return_counts=True)
        kinds = np.unique(seen_pair // size, return_counts=True)[1]
        at_query = [_look_up(seen_context, values, query) for values in (total, kinds)]
        count_at_query = _look_up(seen_pair, count, query * size + wanted)
        probs = np.where(at_query[0] > 0, (count_at_query + at_query[1] * probs) / np.maximum(sum(at_query), 1), probs)
    return probs


def _numbered(context: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Small numbers for the contexts; -1 for a query's context that does not occur."""
    seen, numbers = np.unique(context, return_inverse=True)
    return numbers.reshape(context.shape), _look_up(seen, np.arange(len(seen)) + 1, query) - 1


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values[keys == wanted], 0 where there is none. The keys are sorted."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
