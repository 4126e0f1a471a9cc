"""The feed-forward layers of a block: one row of `MLPS` for each kind."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
from flax import linen as nn

from igpt_jax.config import ComputeConfig, ModelConfig
from igpt_jax.model.axes import add_parameters
from igpt_jax.model.pointwise import gelu2, plain_gelu2
from igpt_jax.model.projection import Hooks, Projection


class MLP(nn.Module):
    """D -> F -> D around gelu2 (release, `mlp`)."""

    cfg: ModelConfig
    compute: ComputeConfig
    hooks: Hooks

    def setup(self) -> None:
        d, f = self.cfg.d_model, mlp_width(self.cfg)
        bias, hooks = self.cfg.use_bias, self.hooks
        layer = functools.partial(Projection, reads_last=False, stddev=0.02, use_bias=bias, hooks=hooks)
        self.c_fc = layer((d, f), width_dim=0)
        self.c_proj = layer((f, d), width_dim=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        activation = plain_gelu2 if self.compute.forward_mode else gelu2
        return self.c_proj(activation(self.c_fc(x)))


@dataclass(frozen=True)
class Mlp:
    """One kind of feed-forward layer. A row of one's own passes `axes` and `optional` to `add_parameters`, too."""

    layer: Callable[[ModelConfig, ComputeConfig, Hooks], nn.Module]
    axes: Mapping[str, tuple[str, ...]]
    """Of its parameters `h/mlp/...`, for `AXES`."""
    width: Callable[[ModelConfig], int] = lambda cfg: 4 * cfg.d_model
    """F, between the two projections."""
    optional: frozenset[str] = frozenset()
    """Parameters that weights to start from may lack, beside biases (`OPTIONAL`)."""


TWO_LAYERS = {
    "h/mlp/c_fc/w": ("layer", "embed", "mlp"),
    "h/mlp/c_proj/w": ("layer", "mlp", "embed"),
    "h/mlp/c_fc/b": ("layer", "mlp"),
    "h/mlp/c_proj/b": ("layer", "embed"),
}

MLPS: dict[str, Mlp] = {"gelu2": Mlp(MLP, TWO_LAYERS)}
"""model.mlp -> the kind."""

for _row in MLPS.values():
    add_parameters(_row.axes, _row.optional)


def mlp_width(cfg: ModelConfig) -> int:
    """F of a model."""
    return MLPS[cfg.mlp].width(cfg)
