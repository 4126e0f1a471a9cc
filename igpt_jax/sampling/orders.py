"""In which order the positions of an image are drawn, one function each.

An order of your own is one row more in `ORDERS`. Any order but raster needs a model trained for it (model.any_order).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from igpt_jax.errors import InputError
from igpt_jax.keys import fold_in
from igpt_jax.sampling.prompt import Prompt

Order = Callable[[np.ndarray, jax.Array], np.ndarray]
"""(known bool [B, *grid], one key an image) -> int [B, T]: the grid position that each slot predicts."""


def raster(known: np.ndarray, keys_B: jax.Array) -> np.ndarray:
    """Row by row from the top left."""
    del keys_B
    known_BT = known.reshape(len(known), -1)
    return np.broadcast_to(np.arange(known_BT.shape[1]), known_BT.shape)


def known_first(known: np.ndarray, keys_B: jax.Array) -> np.ndarray:
    """All known positions, then the others, both row by row: every draw sees all that is known."""
    del keys_B
    return np.argsort(~known.reshape(len(known), -1), axis=1, kind="stable")


def outside_in(known: np.ndarray, keys_B: jax.Array) -> np.ndarray:
    """All known positions, then the others, those nearest to a known one first.

    Where nothing is known, those nearest to the border come first.
    """
    del keys_B
    distance = np.stack([_distance(k) for k in known])
    return np.argsort(distance.reshape(len(known), -1), axis=1, kind="stable")


def random(known: np.ndarray, keys_B: jax.Array) -> np.ndarray:
    """All known positions, then the others in an order drawn for each image."""
    known_BT = known.reshape(len(known), -1)
    n_ctx = known_BT.shape[1]
    # The number after the last position, so that no draw of a colour has the same key.
    shuffle = jax.vmap(lambda key: jax.random.uniform(key, (n_ctx,), jnp.float32))(fold_in(keys_B, jnp.int32(n_ctx)))
    return np.argsort(np.where(known_BT, -1.0, np.asarray(shuffle)), axis=1, kind="stable")


ORDERS: dict[str, Order] = {
    "raster": raster,
    "known_first": known_first,
    "outside_in": outside_in,
    "random": random,
}


def in_order(prompt: Prompt, name: str, grid: tuple[int, ...], keys_B: jax.Array) -> Prompt:
    """The prompt with its order; InputError if a row of it is not a permutation of the positions."""
    order_BT = np.asarray(ORDERS[name](prompt.known.reshape(-1, *grid), keys_B))
    n_ctx = prompt.known.shape[1]
    wrong = order_BT.ndim != 2 or order_BT.dtype.kind not in "iu" or order_BT.shape[1] != n_ctx
    if wrong or (np.sort(order_BT, axis=1) != np.arange(n_ctx)).any():
        raise InputError(f"sampler.order {name}: must hold every position from 0 to {n_ctx - 1} once, as integers")
    return prompt._replace(order=order_BT)


def _distance(known: np.ndarray) -> np.ndarray:
    """float [*grid]: from the nearest known position, or from outside the grid where nothing is known."""
    if known.any():
        return np.asarray(ndimage.distance_transform_edt(~known))
    padded = np.asarray(ndimage.distance_transform_edt(np.pad(~known, 1)))
    return padded[(slice(1, -1),) * known.ndim]
