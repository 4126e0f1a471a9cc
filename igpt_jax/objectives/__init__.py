"""Objectives: functions from a batch to an `Example`, one file each, chosen by name from one table.

An objective of your own is one row more: `OBJECTIVES["mine"] = make_mine`, then `Config(objective="mine")`.
"""

from igpt_jax.config import Config
from igpt_jax.errors import InputError, nearest
from igpt_jax.objectives.any_order import make_any_order
from igpt_jax.objectives.ar import make_ar
from igpt_jax.objectives.ardm import make_ardm
from igpt_jax.objectives.base import (
    Batch,
    MakeObjective,
    Mean,
    Objective,
    Scores,
    batch_tokens,
    check_damage,
    drop_classes,
    image_weights,
    loss_weights,
    score,
    token_nats,
)
from igpt_jax.objectives.bert import make_bert
from igpt_jax.objectives.joint import make_joint
from igpt_jax.objectives.restore import make_restore
from igpt_jax.palette import Palette

__all__ = [
    "OBJECTIVES",
    "Batch",
    "MakeObjective",
    "Mean",
    "Objective",
    "Scores",
    "batch_tokens",
    "check_damage",
    "drop_classes",
    "image_weights",
    "loss_weights",
    "make_objective",
    "score",
    "token_nats",
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
    """The objective that `cfg.objective` names.

    Raises:
      InputError: no such objective, or it does not fit the model.
    """
    name = cfg.objective
    if name not in OBJECTIVES:
        raise InputError(
            f"objective: no objective {name!r}{nearest(name, OBJECTIVES)}; there are {', '.join(OBJECTIVES)}, and "
            "those of a file named with --plugin"
        )
    return OBJECTIVES[name](cfg, palette)
