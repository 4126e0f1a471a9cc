"""A plan from its settings alone, in a process of its own: a compiler ends the whole process when it crashes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import jax

from igpt_jax.analysis.planning.child import CrashError, run_in_child
from igpt_jax.analysis.planning.plan import (
    DecodingPlan,
    TrainingPlan,
    plan_decoding,
    plan_training,
    program_for,
    resolve_auto,
)
from igpt_jax.analysis.planning.topology import Target, check_topology, describe
from igpt_jax.config import Config
from igpt_jax.errors import InputError
from igpt_jax.parallel.mesh import bytes_at_one_device
from igpt_jax.tpu_flags import EVERYWHERE, VARIABLE

log = logging.getLogger(__name__)

Suggestion = tuple[list[str], TrainingPlan]
"""Changes as command-line options, and the plan with them."""
Answer = tuple[TrainingPlan | DecodingPlan, Suggestion | None]


def make_plan(cfg: Config, topology: str, slices: int, sampler: bool, search: bool) -> Answer:
    """The plan of a train step, or with `sampler` of decoding data.batch_size images, on slices of a topology; and, if
    `search` asks for them, changes with which a step fits that does not.

    Call it before anything that asks JAX for devices.
    """
    target = describe(topology, slices)
    try:
        if sampler:
            return plan_decoding(cfg, target), None
        plan = plan_training(cfg, target)
        return plan, suggest(cfg, target) if search and not plan.fits else None
    except jax.errors.JaxRuntimeError as error:
        if "xla_tpu_enable_async_collective_fusion" not in str(error):
            raise
        raise InputError(
            f"topology {topology}: this version of the TPU compiler refuses flags in LIBTPU_INIT_ARGS for this chip; "
            f"export {VARIABLE}='{EVERYWHERE}'"
        ) from None


def make_plan_in_child(
    cfg: Config, topology: str, slices: int, sampler: bool, search: bool, plugins: Sequence[str | Path] = ()
) -> Answer:
    """`make_plan` in a new process, in which the plugins were run before; a crash of the compiler is an InputError."""
    check_topology(topology, slices)
    try:
        return run_in_child(make_plan, cfg, topology, slices, sampler, search, plugins=plugins)
    except CrashError as error:
        raise InputError(
            f"topology {topology}: the compiler crashed on this program ({error}); "
            "a model of another size, or another topology, may work"
        ) from None


def suggest(cfg: Config, target: Target) -> Suggestion | None:
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
