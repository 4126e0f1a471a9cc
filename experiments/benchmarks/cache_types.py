"""What a smaller cache costs: held-out nats per token, read one slot after another, for each type of keys and values.

    python experiments/benchmarks/cache_types.py --model runs/raster --images 500

Every image is read as it would be drawn: each slot attends to what the cache holds of earlier slots. Differences are
paired with the cache of the compute type. Memory is that of one image's keys and values.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from igpt_jax import ImageGPT, InputError, load_pretrained
from igpt_jax.datasets import open_data
from igpt_jax.model import cache_row_bytes, compute_dtype
from igpt_jax.model.axes import Params
from igpt_jax.sampling.decode import Decoded, decoding_weights, next_logits, prefill, scan_segments

BATCH = 100


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a run of a causal model with images of its own")
    parser.add_argument("--images", type=int, default=500, help="held-out images")
    args = parser.parse_args()
    try:
        weights = load_pretrained(args.model)
        data = open_data(weights.config)
    except InputError as error:
        parser.error(str(error))
    model, images = weights.model, data.images(data.held_out, args.images)
    tokens_nT = np.asarray(weights.colors.encode(images)).reshape(len(images), -1)
    own = compute_dtype(model.compute).name
    print(f"{len(images)} held-out images of {tokens_nT.shape[1]} tokens, on {jax.devices()[0].device_kind}\n")
    print(f"| cache | kB an image | nats per token | minus that of {own} |\n|---|---|---|---|")
    exact = None
    for dtype in dict.fromkeys((own, "bfloat16", "int8")):
        read = model.clone(cache=dtype)
        parts = [
            read_nats(read, weights.params, jnp.asarray(x))
            for x in np.split(tokens_nT, range(BATCH, len(images), BATCH))
        ]
        nats_n = np.concatenate(parts).astype(np.float64)
        exact = nats_n if exact is None else exact
        size = model.cfg.n_ctx * cache_row_bytes(model.cfg, model.compute, dtype) / 1000
        more = nats_n - exact
        paired = "" if dtype == own else f"{more.mean():+.6f} ± {scipy.stats.sem(more):.6f}"
        print(f"| {dtype} | {size:.0f} | {nats_n.mean():.4f} ± {scipy.stats.sem(nats_n):.4f} | {paired} |", flush=True)


@functools.partial(jax.jit, static_argnames="model")
def read_nats(model: ImageGPT, params: Params, tokens_BT: jax.Array) -> jax.Array:
    """float32 [B]: nats per token, each slot read on its own as when it is drawn."""
    variables, (b, t) = {"params": decoding_weights(model, params)}, tokens_BT.shape

    def step(last: Decoded, xs: tuple[jax.Array, jax.Array]) -> tuple[Decoded, jax.Array]:
        slot, token_B = xs
        target_B = jnp.full(b, slot)
        logits_BV, cache = next_logits(model, variables, last, slot, target_B, None)
        nats_B = -jnp.take_along_axis(jax.nn.log_softmax(logits_BV), token_B[:, None], axis=1)[:, 0]
        return Decoded(token_B, target_B, cache), nats_B

    nothing: Any = jnp.zeros((b, 0), jnp.int32)
    first = prefill(model, variables, nothing, nothing, None)
    _, nats_TB = scan_segments(step, first, (jnp.arange(t), tokens_BT.T.astype(jnp.int32)), 0)
    return nats_TB.mean(axis=0)


if __name__ == "__main__":
    main()
