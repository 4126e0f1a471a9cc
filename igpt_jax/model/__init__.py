"""The pure function from tokens to logits."""

from igpt_jax.model.decoder import AXES, Cache, ImageGPT, init_cache

__all__ = ["AXES", "Cache", "ImageGPT", "init_cache"]
