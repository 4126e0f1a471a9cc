"""Image GPT (Chen et al., "Generative Pretraining from Pixels", 2020) in JAX and Flax."""

from typing import TYPE_CHECKING, Any

from igpt_jax.config import Config, InputError, ModelConfig
from igpt_jax.model import Cache, ImageGPT, init_cache
from igpt_jax.palette import Palette
from igpt_jax.sampling.sampler import complete, sample

if TYPE_CHECKING:
    from igpt_jax.interop.load import load_pretrained

__all__ = [
    "Cache",
    "Config",
    "ImageGPT",
    "InputError",
    "ModelConfig",
    "Palette",
    "complete",
    "init_cache",
    "load_pretrained",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name == "load_pretrained":  # brings Orbax, so it is imported when it is asked for
        from igpt_jax.interop.load import load_pretrained

        return load_pretrained
    raise AttributeError(f"module 'igpt_jax' has no attribute {name!r}")
