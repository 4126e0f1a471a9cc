"""Changes to a run that does not fit, until it does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

from igpt_jax.analysis.planning.plan import TrainingPlan, plan_training, program_for, resolve_auto
from igpt_jax.analysis.planning.topology import Target
from igpt_jax.config import Config
from igpt_jax.errors import InputError
from igpt_jax.parallel.mesh import bytes_at_one_device

log = logging.getLogger(__name__)


def suggest(cfg: Config, target: Target) -> tuple[list[str], TrainingPlan] | None:
    """The first of a short list of changes with which the run fits, as command-line options, and its plan.

    First the state is split until it takes at most half of a device, then the backward pass recomputes more, then the
    batch is processed in parts.
    """
    for options, changed in candidates(cfg, fsdp_for_state(cfg, target)):
        log.info("trying %s", " ".join(options))
        try:
            plan = plan_training(changed, target)
        except InputError:
            continue
        if plan.fits:
            return options, plan
    return None


def fsdp_for_state(cfg: Config, target: Target) -> int:
    """The smallest mesh.fsdp with which the state takes at most half of a device; else the largest that is possible."""
    largest = cfg.mesh.fsdp
    for i in range(len(target.devices).bit_length()):
        split = _with_fsdp(cfg, max(cfg.mesh.fsdp, 2**i))
        try:
            state = program_for(resolve_auto(split, target), target)[1].abstract
        except InputError:
            continue
        largest = split.mesh.fsdp
        if bytes_at_one_device(state) <= target.chip.hbm_bytes / 2:
            break
    return largest


def _with_fsdp(cfg: Config, fsdp: int) -> Config:
    return cfg if fsdp == cfg.mesh.fsdp else replace(cfg, mesh=replace(cfg.mesh, data=-1, fsdp=fsdp))


def candidates(cfg: Config, fsdp: int) -> Iterator[tuple[list[str], Config]]:
    """Changes that make a run smaller, each as command-line options and as the changed configuration."""
    remats, microbatches = ("none", "dots", "full"), cfg.train.microbatches
    parts = [microbatches * factor for factor in (2, 4, 8, 16)]
    changes = [(remat, microbatches) for remat in remats[remats.index(cfg.compute.remat) :]]
    for remat, n in changes + [("full", n) for n in parts if cfg.data.batch_size % n == 0]:
        options = ["--mesh.data", "-1", "--mesh.fsdp", str(fsdp)] if fsdp != cfg.mesh.fsdp else []
        options += ["--compute.remat", remat] if remat != cfg.compute.remat else []
        options += ["--train.microbatches", str(n)] if n != microbatches else []
        if options:
            compute, train = replace(cfg.compute, remat=remat), replace(cfg.train, microbatches=n)
            yield options, _with_fsdp(replace(cfg, compute=compute, train=train), fsdp)
