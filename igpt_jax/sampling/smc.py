"""Sequential Monte Carlo: draws of a raster model that agree with known pixels after the hole.

A raster model predicts a pixel from those before it, so completions that only keep the later known pixels (clamping)
do not take them into account. Here many completions, called particles, are drawn side by side. At every known pixel
each is weighted by the probability that it gave to that pixel, and where few carry most of the weight, they are
resampled. With more particles the result tends to the model's own distribution of the hole, where everything
else is known (Doucet and Johansen, "A Tutorial on Particle Filtering and Smoothing", 2009, section 3). Choosing among
finished completions by their total probability would not.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from igpt_jax.keys import fold_in
from igpt_jax.model import Cache, ImageGPT
from igpt_jax.model.axes import Params
from igpt_jax.sampling.decode import decoding_weights, next_logits, prefill, scan_segments
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules, draw


class Particles(NamedTuple):
    """What is carried from slot to slot; n particles of B images are rows 0 .. B n - 1, image by image."""

    token: jax.Array
    """int32 [B n]: the colour of the last slot."""
    source: jax.Array
    cache: Cache
    tokens: jax.Array
    """int32 [B n, T]: everything drawn so far."""
    log_weight: jax.Array
    """float32 [B, n]: since the particles were last resampled."""
    log_known: jax.Array
    """float32 [B]: log of the estimated probability of the known pixels from `start` on, up to then."""


@functools.partial(jax.jit, static_argnames=("model", "particles", "draws", "start"))
def smc(
    model: ImageGPT,
    params: Params,
    prompt: Prompt,
    keys_B: jax.Array,
    rules: Rules,
    particles: int,
    draws: int,
    start: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Completions in raster order, weighted by the known pixels that come after the unknown ones.

    Unknown pixels are drawn by `rules`. Weights are the model's probabilities at temperature 1 without top-k and top-p,
    so that no known pixel is impossible; the draws are those of the model where the rules are these, too.

    Args:
      prompt: of B images, in raster order.
      particles: n, how many completions of each image are drawn side by side.
      draws: how many of them are returned, drawn by weight.
      start: as for `decode`.

    Returns:
      int32 [B, draws, T] in raster order, and float32 [B]: log of the estimated probability of the known pixels from
      `start` on, given those before. The mean of its exponential is the model's probability.
    """
    b, t = prompt.tokens.shape
    resample_keys_B = fold_in(keys_B, t)  # the number after the last position
    row_keys = fold_in(keys_B[:, None], t + 1 + jnp.arange(particles)[None]).reshape(-1)
    tokens_BT, known_BT = prompt.tokens.astype(jnp.int32).repeat(particles, axis=0), prompt.known
    class_B = None if prompt.class_id is None else prompt.class_id.repeat(particles)
    variables = {"params": decoding_weights(model, params)}

    def step(last: Particles, xs: tuple[jax.Array, ...]) -> tuple[Particles, None]:
        slot, known_token_B, known_B = xs
        target_B = jnp.broadcast_to(slot, last.token.shape)
        logits_BV, cache = next_logits(model, variables, last, slot, target_B, class_B)
        drawn_B = draw(logits_BV, fold_in(row_keys, target_B), rules)
        token_B = jnp.where(known_B.repeat(particles), known_token_B, drawn_B)
        log_p_B = jnp.take_along_axis(jax.nn.log_softmax(logits_BV), known_token_B[:, None], axis=1)[:, 0]
        log_weight = last.log_weight + jnp.where(known_B[:, None], log_p_B.reshape(b, particles), 0.0)
        after = Particles(token_B, target_B, cache, last.tokens.at[:, slot].set(token_B), log_weight, last.log_known)
        few_B = known_B & (effective(log_weight) < particles / 2)
        resample = functools.partial(_resampled, keys_B=fold_in(resample_keys_B, slot), which_B=few_B)
        return jax.lax.cond(few_B.any(), resample, lambda same: same, after), None

    slots_T = jnp.arange(t, dtype=jnp.int32)
    read = prefill(model, variables, tokens_BT[:, :start], slots_T[None, :start].repeat(len(tokens_BT), 0), class_B)
    unweighted, zero_B = jnp.zeros((b, particles), jnp.float32), jnp.zeros(b, jnp.float32)
    first = Particles(*read, tokens=tokens_BT, log_weight=unweighted, log_known=zero_B)
    last, _ = scan_segments(step, first, (slots_T, tokens_BT.T, known_BT.T), start)
    log_known_B = last.log_known + _log_mean(last.log_weight)
    chosen = systematic(last.log_weight, fold_in(resample_keys_B, t), draws)
    tokens = jnp.take_along_axis(last.tokens.reshape(b, particles, t), chosen[..., None], axis=1)
    return tokens, log_known_B


def effective(log_weight: jax.Array) -> jax.Array:
    """float32 [B]: the effective number of particles, 1 / sum of squared shares, from log weights [B, n]."""
    share = jax.nn.softmax(log_weight, axis=1)
    return 1 / jnp.sum(jnp.square(share), axis=1)


def systematic(log_weight: jax.Array, keys_B: jax.Array, draws: int) -> jax.Array:
    """int32 [B, draws]: particles drawn by weight [B, n], each as often as its share of the draws, rounded up or down.

    They come in random order, so that any few of them are draws, too.
    """

    def one(log_weight_n: jax.Array, key: jax.Array) -> jax.Array:
        offset_key, order_key = jax.random.split(key)
        ends_n = jnp.cumsum(jax.nn.softmax(log_weight_n))
        points = (jnp.arange(draws) + jax.random.uniform(offset_key, dtype=jnp.float32)) / draws * ends_n[-1]
        return jax.random.permutation(order_key, jnp.searchsorted(ends_n, points, side="right"))

    return jnp.minimum(jax.vmap(one)(log_weight, keys_B), log_weight.shape[1] - 1).astype(jnp.int32)


def _resampled(particles: Particles, keys_B: jax.Array, which_B: jax.Array) -> Particles:
    """The particles, those of the images `which_B` resampled by weight; then their weights are equal again."""
    b, n = particles.log_weight.shape
    same = jnp.broadcast_to(jnp.arange(n)[None], (b, n))
    chosen = jnp.where(which_B[:, None], systematic(particles.log_weight, keys_B, n), same)
    rows = (chosen + n * jnp.arange(b)[:, None]).reshape(-1)
    token, source, cache, tokens = jax.tree.map(lambda x: x[rows], particles[:4])
    log_known_B = particles.log_known + jnp.where(which_B, _log_mean(particles.log_weight), 0.0)
    return Particles(token, source, cache, tokens, jnp.where(which_B[:, None], 0.0, particles.log_weight), log_known_B)


def _log_mean(log_weight: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(log_weight, axis=1) - jnp.log(jnp.float32(log_weight.shape[1]))
