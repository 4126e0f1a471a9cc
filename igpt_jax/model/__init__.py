"""The pure function from slots to logits."""

from igpt_jax.model.axes import AXES, CONDITIONING, is_optional, is_projection
from igpt_jax.model.blocks import MLPS, POSITIONS, mlp_width
from igpt_jax.model.cache import Cache, LayerCache, cache_row_bytes, compute_dtype, grow_cache, init_cache
from igpt_jax.model.decoder import ImageGPT, abstract_params, count_params

__all__ = [
    "AXES",
    "CONDITIONING",
    "MLPS",
    "POSITIONS",
    "Cache",
    "ImageGPT",
    "LayerCache",
    "abstract_params",
    "cache_row_bytes",
    "compute_dtype",
    "count_params",
    "grow_cache",
    "init_cache",
    "is_optional",
    "is_projection",
    "mlp_width",
]
