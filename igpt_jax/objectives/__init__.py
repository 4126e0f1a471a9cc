"""Objectives: functions from a batch to an `Example`, one file each, chosen by name from one table.

A custom objective is one more row: `OBJECTIVES["mine"] = make_mine`, then `Config(objective="mine")`.
"""

from igpt_jax.config import Config
from igpt_jax.errors import InputError, nearest
from igpt_jax.objectives.any_order import make_any_order
from igpt_jax.objectives.ar import make_ar
from igpt_jax.objectives.ardm import make_ardm
from igpt_jax.objectives.base import (
    ACCURACY,
    NATS,
    Batch,
    Figure,
    MakeObjective,
    Mean,
    Objective,
    Scores,
    batch_tokens,
    check_degrade,
    class_cond,
    cross_entropy,
    drop_classes,
    image_weights,
    token_nats,
    token_scores,
    with_class,
)
from igpt_jax.objectives.bert import make_bert
from igpt_jax.objectives.joint import make_joint
from igpt_jax.objectives.restore import make_restore
from igpt_jax.palette import Palette

__all__ = [
    "ACCURACY",
    "NATS",
    "OBJECTIVES",
    "Batch",
    "Figure",
    "MakeObjective",
    "Mean",
    "Objective",
    "Scores",
    "batch_tokens",
    "bind_objective",
    "check_degrade",
    "class_cond",
    "cross_entropy",
    "drop_classes",
    "identity",
    "image_weights",
    "make_objective",
    "token_nats",
    "token_scores",
    "with_class",
]

OBJECTIVES: dict[str, MakeObjective] = {
    "ar": make_ar,
    "bert": make_bert,
    "joint": make_joint,
    "any_order": make_any_order,
    "ardm": make_ardm,
    "restore": make_restore,
}


def make_objective(cfg: Config, palette: Palette) -> Objective:
    """The objective that `cfg.objective` names."""
    name = cfg.objective
    if name not in OBJECTIVES:
        known = f"{', '.join(OBJECTIVES)}, or an objective of one of the plugins"
        raise InputError(f"objective: must be one of {known}; got {name!r}{nearest(name, OBJECTIVES)}")
    return OBJECTIVES[name](cfg, palette)


def bind_objective(cfg: Config, palette: Palette, own: MakeObjective | None = None, trained: str = "") -> Objective:
    """The objective of a run: `own` if there is one, else the one that the configuration names.

    `trained` is the `identity` of the custom objective it was trained with, empty for none.
    """
    if trained and trained != (given := identity(own)):
        here = f"this is {given}" if given else "none is passed"
        raise InputError(f"objective: the run was trained with {trained}, and {here}; pass the same object")
    return make_objective(cfg, palette) if own is None else own(cfg, palette)


def identity(part: object) -> str:
    """How a custom part is stored with a run: module and name of a function or class; empty for None."""
    if part is None:
        return ""
    while hasattr(part, "func"):  # functools.partial
        part = part.func  # pyright: ignore[reportAttributeAccessIssue]
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"  # pyright: ignore[reportAttributeAccessIssue]
