"""The optimizer of a run: learning-rate schedule, Adam, clipping, decay mask and the averaged weights."""

from __future__ import annotations

import jax
import optax

from igpt_jax.config import OptimConfig
from igpt_jax.model.axes import Params, is_projection
from igpt_jax.parallel.mesh import path_name


def make_schedule(cfg: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate at a step: linear warm-up from 0, then cosine to 0 at `steps`, or constant (appendix A.1)."""
    if cfg.schedule == "constant":
        if not cfg.warmup_steps:
            return optax.schedules.constant_schedule(cfg.lr)
        return optax.schedules.warmup_constant_schedule(0.0, cfg.lr, cfg.warmup_steps)
    return optax.schedules.warmup_cosine_decay_schedule(
        0.0 if cfg.warmup_steps else cfg.lr, cfg.lr, cfg.warmup_steps, steps
    )


def decay_mask(params: Params) -> Params:
    """True for the projection matrices; norms, embeddings, head and sos are not decayed."""
    return jax.tree.map_with_path(lambda path, _: is_projection(path_name(path)), params)


def make_optimizer(cfg: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Adam with the configured betas; clipping before it and decoupled decay after it when asked for."""
    parts = []
    if cfg.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(cfg.clip_norm))
    parts.append(optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps))
    if cfg.weight_decay:
        parts.append(optax.add_decayed_weights(cfg.weight_decay, mask=decay_mask))
    parts.append(optax.scale_by_learning_rate(make_schedule(cfg, steps)))
    return optax.chain(*parts)
