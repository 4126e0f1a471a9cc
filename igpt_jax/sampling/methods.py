"""Ways to fill holes. One of your own is one row more in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from igpt_jax.config import ModelConfig, SamplerConfig
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.parallel.mesh import mesh_of, traced_on
from igpt_jax.sampling.batches import common_prefix_length, decode_in_batches, in_batches
from igpt_jax.sampling.draft import Draft
from igpt_jax.sampling.orders import in_order
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import rules_of
from igpt_jax.sampling.smc import smc
from igpt_jax.sampling.unmask import unmask

UNMASK_PASSES = 8

Fill = Callable[[ImageGPT, Params, Prompt, jax.Array, SamplerConfig, Draft | None], np.ndarray]
"""(model, params, prompt of R pictures, keys [R, n], settings, what guesses colours) -> int [R, n, T], all drawn."""


@dataclass(frozen=True)
class Method:
    """A way to fill holes."""

    fill: Fill
    fits: Callable[[ModelConfig], bool]
    """Whether a model can fill holes in this way."""
    needs: str
    """Which model it needs, for messages."""
    uses: tuple[str, ...] = ()
    """Which of the settings `sampler.lookahead` and `sampler.cache` it supports."""


def _repeated(prompt: Prompt, keys: jax.Array) -> tuple[Prompt, jax.Array]:
    """Every picture as many times as it has keys."""
    return jax.tree.map(lambda x: x.repeat(keys.shape[1], axis=0), prompt), keys.reshape(-1)


def _in_order(
    model: ImageGPT, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig, default: str
) -> tuple[Prompt, jax.Array]:
    """Repeated, with the order of the settings; raster means the default one."""
    repeated, row_keys = _repeated(prompt, keys)
    name = default if sampler.order == "raster" else sampler.order
    return in_order(repeated, name, model.cfg.grid, row_keys), row_keys


def _any_order(
    model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig, draft: Draft | None
) -> np.ndarray:
    """All known pixels are read first."""
    rows = _in_order(model, prompt, keys, sampler, "known_first")
    return decode_in_batches(model, params, *rows, sampler, draft).reshape(*keys.shape, -1)


def _clamp(
    model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig, draft: Draft | None
) -> np.ndarray:
    """Raster order; known pixels after a missing one do not influence it."""
    return decode_in_batches(model, params, *_repeated(prompt, keys), sampler, draft).reshape(*keys.shape, -1)


def _smc(
    model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig, draft: Draft | None
) -> np.ndarray:
    """Raster order, with particles weighted by the known pixels after the hole."""
    particles, draws = max(sampler.particles, keys.shape[1]), keys.shape[1]
    run, rules, start = traced_on(mesh_of(params), smc), rules_of(sampler), common_prefix_length(prompt.known)
    model = model.clone(cache=sampler.cache)

    def draw_batch(part: Prompt, keys_B: jax.Array) -> Any:
        return run(model, params, part, keys_B, rules, particles, draws, start)[0]

    return in_batches(draw_batch, params, prompt, keys[:, 0], max(1, sampler.batch_size // particles))


def _unmask(by_confidence: bool) -> Fill:
    def fill(
        model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig, draft: Draft | None
    ) -> np.ndarray:
        """With a BERT model, over several passes."""
        rows = _in_order(model, prompt, keys, sampler, "random")
        unknown = int((~prompt.known).sum(axis=1).max())
        passes = min(unknown, sampler.passes or (UNMASK_PASSES if by_confidence else unknown))
        run, rules = traced_on(mesh_of(params), unmask), rules_of(sampler)

        def draw_batch(part: Prompt, keys_B: jax.Array) -> Any:
            return run(model, params, part, keys_B, rules, passes, by_confidence)

        return in_batches(draw_batch, params, *rows, sampler.batch_size).reshape(*keys.shape, -1)

    return fill


BERT = "a BERT model (objective ardm)"
METHODS: dict[str, Method] = {
    "any_order": Method(_any_order, lambda cfg: cfg.any_order, "objective any_order", ("lookahead", "cache")),
    "smc": Method(_smc, lambda cfg: cfg.causal, "a causal model", ("cache",)),
    "clamp": Method(_clamp, lambda cfg: cfg.causal, "a causal model", ("lookahead", "cache")),
    "ardm": Method(_unmask(by_confidence=False), lambda cfg: not cfg.causal, BERT),
    "unmask": Method(_unmask(by_confidence=True), lambda cfg: not cfg.causal, BERT),
}
"""The best first: auto takes the first that a model supports."""
