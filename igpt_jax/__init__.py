"""Image GPT (Chen et al., "Generative Pretraining from Pixels", 2020) in JAX and Flax."""

from igpt_jax.config import Config, InputError, ModelConfig
from igpt_jax.model import Cache, ImageGPT, init_cache
from igpt_jax.palette import Palette
from igpt_jax.sampling.sampler import complete, sample

__all__ = ["Cache", "Config", "ImageGPT", "InputError", "ModelConfig", "Palette", "complete", "init_cache", "sample"]
