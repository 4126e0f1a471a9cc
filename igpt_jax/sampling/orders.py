"""In which order the positions of an image are drawn, one function each.

An order of your own is one row more in `ORDERS`. Any order but raster needs a model trained for it (model.any_order).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.keys import fold_in

Order = Callable[[np.ndarray, jax.Array], np.ndarray]
"""(known bool [B, T], one key an image) -> int [B, T]: the grid position that each slot predicts."""


def raster(known_BT: np.ndarray, keys_B: jax.Array) -> np.ndarray:
    """Row by row from the top left."""
    del keys_B
    return np.broadcast_to(np.arange(known_BT.shape[1]), known_BT.shape)


def known_first(known_BT: np.ndarray, keys_B: jax.Array) -> np.ndarray:
    """All known positions, then the others, both row by row: every draw sees all that is known."""
    del keys_B
    return np.argsort(~known_BT, axis=1, kind="stable")


def random(known_BT: np.ndarray, keys_B: jax.Array) -> np.ndarray:
    """All known positions, then the others in an order drawn for each image."""
    n_ctx = known_BT.shape[1]
    # The number after the last position, so that no draw of a colour has the same key.
    shuffle = jax.vmap(lambda key: jax.random.uniform(key, (n_ctx,)))(fold_in(keys_B, jnp.int32(n_ctx)))
    return np.argsort(np.where(known_BT, -1.0, np.asarray(shuffle)), axis=1, kind="stable")


ORDERS: dict[str, Order] = {"raster": raster, "known_first": known_first, "random": random}
