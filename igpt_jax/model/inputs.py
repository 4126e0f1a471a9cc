"""What the decoder's methods accept: tokens or slots, checked against the model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from igpt_jax.config import ModelConfig
from igpt_jax.errors import InputError, require
from igpt_jax.sequence import Inputs, masked_inputs, raster_inputs


def to_inputs(
    cfg: ModelConfig, tokens: jax.Array | Inputs, visible_BT: jax.Array | None = None, class_B: jax.Array | None = None
) -> Inputs:
    """The slots that tokens stand for: raster order, or masked where the model is BERT. Slots are checked alone."""
    check_mesh()
    if not isinstance(tokens, Inputs):
        if tokens.ndim != 2 or tokens.shape[1] != cfg.n_ctx:
            raise InputError(
                f"tokens of shape {tokens.shape}: the model takes [batch, {cfg.n_ctx}] for its grid {cfg.grid}; "
                "flatten the grid in raster order"
            )
        require(not cfg.has_conditioning, "model", "reads a picture beside the tokens; pass Inputs (prefix, aligned)")
        bert_only = "only a BERT model (model.causal False) takes blanked tokens"
        require(visible_BT is None or not cfg.causal, "visible_BT", bert_only)
        no_start = "a BERT model has no start vector to add a class to"
        require(class_B is None or cfg.causal, "class_B", no_start)
        tokens = raster_inputs(tokens, class_B) if cfg.causal else masked_inputs(tokens, visible_BT)
    for field, shape, settings in (
        ("prefix", (cfg.prefix_slots, cfg.prefix_values), "model.prefix_slots, prefix_values"),
        ("aligned", (cfg.n_ctx, cfg.aligned_values), "model.aligned_values"),
    ):
        x, expected = getattr(tokens, field), shape if all(shape) else None
        given = None if x is None else x.shape[1:]
        require(given == expected, f"{field} of shape {given}", f"the model takes {expected} ({settings})")
    unknown = "this model was not made for classes; leave the class out"
    require(tokens.class_id is None or cfg.cond_classes > 0, "model.cond_classes", unknown)
    return tokens


def check_mesh(least: int = 2) -> None:
    """Raises InputError under a mesh of at least `least` devices with Explicit axes, as `jax.make_mesh` makes them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size >= least and AxisType.Explicit in mesh.axis_types:
        raise InputError(
            "mesh: the mesh that is set has axes of type Explicit, and the model needs Auto; make it with "
            "igpt_jax.make_mesh, or jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * n)"
        )


def example_inputs(cfg: ModelConfig) -> Inputs:
    """One image's slots of the right shape for a model, all zero."""
    tokens_BT = jnp.zeros((1, cfg.n_ctx), jnp.int32)
    inputs = raster_inputs(tokens_BT) if cfg.causal else masked_inputs(tokens_BT)
    if cfg.prefix_slots:
        inputs = inputs._replace(prefix=jnp.zeros((1, cfg.prefix_slots, cfg.prefix_values)))
    if cfg.aligned_values:
        inputs = inputs._replace(aligned=jnp.zeros((1, cfg.n_ctx, cfg.aligned_values)))
    return inputs
