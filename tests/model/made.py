"""Models with random parameters of some size, and parts of slots."""

import functools

import jax

from igpt_jax import ComputeConfig, ImageGPT, ModelConfig
from igpt_jax.model.decoder import example_inputs
from igpt_jax.sequence import Inputs
from tests.conftest import randomized

run = jax.jit(ImageGPT.apply, static_argnums=0, static_argnames=("layers", "method"))


@functools.cache
def made(scale=0.2, attention="auto", **cfg):
    """(model, params) of preset tiny with some fields replaced."""
    model = ImageGPT(ModelConfig.preset("tiny", **cfg), ComputeConfig(attention=attention))
    params = jax.jit(model.init)(jax.random.key(0), example_inputs(model.cfg))["params"]
    return model, randomized(params, scale)


def part(inputs, start, end):
    """Some of the slots, without a prefix."""
    return Inputs(*(None if a is None else a[:, start:end] for a in inputs[:5]))
