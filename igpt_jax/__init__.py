"""Image GPT (Chen et al., "Generative Pretraining from Pixels", 2020) in JAX and Flax."""

from typing import TYPE_CHECKING, Any

from igpt_jax.config import ComputeConfig, Config, ModelConfig, SamplerConfig
from igpt_jax.errors import InputError
from igpt_jax.model import ImageGPT, init_cache
from igpt_jax.palette import Palette
from igpt_jax.sampling.tasks import complete, sample
from igpt_jax.sequence import Example, Inputs

if TYPE_CHECKING:
    from igpt_jax.run import report, train
    from igpt_jax.weights.load import load_pretrained

__all__ = [
    "ComputeConfig",
    "Config",
    "Example",
    "ImageGPT",
    "InputError",
    "Inputs",
    "ModelConfig",
    "Palette",
    "SamplerConfig",
    "complete",
    "init_cache",
    "load_pretrained",
    "report",
    "sample",
    "train",
]

_LAZY = {"load_pretrained": "igpt_jax.weights.load", "report": "igpt_jax.run", "train": "igpt_jax.run"}
"""Names that bring Orbax or grain, so their modules are imported when they are asked for."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'igpt_jax' has no attribute {name!r}")
