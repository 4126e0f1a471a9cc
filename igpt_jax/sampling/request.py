"""Whether a model can draw what is asked for: checked by every run before it trains."""

from __future__ import annotations

from collections.abc import Callable

from igpt_jax.config import ModelConfig, SamplerConfig
from igpt_jax.errors import InputError
from igpt_jax.sampling.guidance import check_guidance
from igpt_jax.sampling.inpaint import check_method, check_named_order
from igpt_jax.sampling.restore import check_restores
from igpt_jax.sampling.tasks import check_draws, check_order


def _draw(cfg: ModelConfig, sampler: SamplerConfig) -> None:
    check_draws(cfg)
    check_order(cfg, sampler.order)
    if sampler.guidance != 1 and not cfg.cond_classes:
        check_guidance(sampler, 0)


def _inpaint(cfg: ModelConfig, sampler: SamplerConfig) -> None:
    check_guidance(sampler, cfg.cond_classes)
    check_method(cfg, sampler)
    check_named_order(sampler.order)


def _restore(cfg: ModelConfig, sampler: SamplerConfig) -> None:
    check_restores(cfg)
    check_guidance(sampler, cfg.cond_classes)
    if sampler.order != "raster":
        raise InputError(f"sampler.order: restoration draws in raster order only, not {sampler.order}")


TASKS: dict[str, Callable[[ModelConfig, SamplerConfig], None]] = {
    "sample": _draw,
    "complete": _draw,
    "inpaint": _inpaint,
    "restore": _restore,
}


def check_request(cfg: ModelConfig, task: str, sampler: SamplerConfig) -> None:
    """Raises InputError if a model cannot do a task with these settings.

    Args:
      task: a name in `TASKS`.
    """
    if task not in TASKS:
        raise InputError(f"task: must be one of {', '.join(TASKS)}; got {task!r}")
    TASKS[task](cfg, sampler)
