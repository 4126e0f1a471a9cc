"""What each dim of each parameter is. Facts about parameters are looked up here, or derived from their shapes."""

from __future__ import annotations

from typing import Any

Params = Any
"""A nested dict of float32 arrays, as `model.init` returns it under "params"."""

AXES: dict[str, tuple[str, ...]] = {
    "wpe": ("position", "embed"),
    "wpe_source": ("position", "embed"),
    "wpe_frame": ("frame", "embed"),
    "wte": ("vocab", "embed"),
    "sos": ("embed",),
    "class_table": ("class", "embed"),
    "prefix_w": ("patch", "embed"),
    "aligned_w": ("patch", "embed"),
    "prefix_wpe": ("position", "embed"),
    "wtet": ("vocab", "embed"),
    "clf": ("class", "embed"),
    "h/ln_1/g": ("layer", "norm"),
    "h/attn/q_proj/w": ("layer", "heads", "head", "embed"),
    "h/attn/k_proj/w": ("layer", "heads", "head", "embed"),
    "h/attn/v_proj/w": ("layer", "heads", "head", "embed"),
    "h/attn/c_proj/w": ("layer", "heads", "head", "embed"),
    "h/attn/q_proj/b": ("layer", "heads", "head"),
    "h/attn/k_proj/b": ("layer", "heads", "head"),
    "h/attn/v_proj/b": ("layer", "heads", "head"),
    "h/attn/c_proj/b": ("layer", "embed"),
    "h/ln_2/g": ("layer", "norm"),
    "h/mlp/c_fc/w": ("layer", "embed", "mlp"),
    "h/mlp/c_proj/w": ("layer", "mlp", "embed"),
    "h/mlp/c_fc/b": ("layer", "mlp"),
    "h/mlp/c_proj/b": ("layer", "embed"),
    "ln_f/g": ("norm",),
}
"""End of a parameter's path -> the name of each dim."""

OPTIONAL = {"clf", "class_table", "wpe_source", "wpe_frame"}
"""What weights to start from may lack beside biases, see `is_optional`."""

CONDITIONING = frozenset({"prefix_w", "prefix_wpe", "aligned_w"})
"""Parameters that read a conditioning picture. Weights to start from may lack them, too, but they start at random, and
a model with them computes something else from the first step on."""


def is_projection(name: str) -> bool:
    """Whether it is a weight matrix of the blocks."""
    return {"layer", "embed"} < set(AXES.get(name, ()))


def is_optional(name: str) -> bool:
    """Whether weights to start from may lack it, because it starts at zero and changes nothing there (`OPTIONAL`)."""
    return name in OPTIONAL or name.endswith("/b")
