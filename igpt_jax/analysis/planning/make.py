"""A plan from its settings alone, in a process of its own: a compiler ends the whole process when it crashes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax

from igpt_jax.analysis.planning.child import CrashError, run_in_child
from igpt_jax.analysis.planning.decoding import DecodingPlan, plan_decoding
from igpt_jax.analysis.planning.plan import TrainingPlan, plan_training
from igpt_jax.analysis.planning.suggest import suggest
from igpt_jax.analysis.planning.topology import check_topology, describe
from igpt_jax.config import Config
from igpt_jax.errors import InputError
from igpt_jax.tpu_flags import EVERYWHERE, VARIABLE

Suggestion = tuple[list[str], TrainingPlan]
"""Changes as command-line options, and the plan with them."""
Answer = tuple[TrainingPlan | DecodingPlan, Suggestion | None]


def make_plan(cfg: Config, topology: str, slices: int, sampler: bool, search: bool) -> Answer:
    """The plan of a run on so many slices of a topology, and changes with which it fits if it does not.

    Call it before anything that asks JAX for devices.

    Args:
      sampler: decoding of data.batch_size images instead of a train step.
      search: whether to look for changes; not done for a sampler.

    Raises:
      InputError: a topology that does not exist, or a run that is impossible there.
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
