"""The best weights of a run, kept beside its newest, and when a run need not go on (paper section 3.4)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from igpt_jax.errors import InputError, nearest
from igpt_jax.model.axes import Params
from igpt_jax.objectives import Objective
from igpt_jax.training.checkpoint import CheckpointMeta, save_weights

log = logging.getLogger(__name__)

BEST = "best"
"""The folder of the workdir that holds them; it can be loaded like a workdir."""

TOKEN_LOSSES = {f"{unit}_per_{what}" for unit in ("nats", "bits") for what in ("token", "masked_token")}
"""What objectives call their token loss."""


class BestWeights:
    """Follows a figure over the evaluations of a run.

    Args:
      figure: its name, as `figure_of` has it; empty for none.

    Attributes:
      state: what a checkpoint stores of it: the best value so far, its step, and how many evaluations since were worse.
    """

    def __init__(self, workdir: Path, figure: str, patience: int, meta: CheckpointMeta) -> None:
        self._directory, self._figure, self._patience = workdir / BEST, figure, patience
        # the weights that are saved are the averaged ones, if there is an average
        plain = replace(meta.config, optim=replace(meta.config.optim, ema_decay=None))
        self._meta = replace(meta, config=plain)
        self.state: dict[str, Any] = {"value": None, "step": 0, "worse": 0}

    def update(self, step: int, params: Params, measured: Mapping[str, float]) -> None:
        """Saves the weights if their evaluation is the best so far. Nothing happens where none was done.

        Raises:
          InputError: train.best is not among the figures.
        """
        figures = {name.removeprefix("eval/"): value for name, value in measured.items() if name.startswith("eval/")}
        if not self._figure or not figures:
            return
        if self._figure not in figures:
            near = nearest(self._figure, figures)
            raise InputError(f"train.best: no figure {self._figure!r}{near}; there are {', '.join(figures)}")
        value, best = figures[self._figure], self.state["value"]
        if best is not None and not better(self._figure, value, best):
            self.state["worse"] += 1
            return
        self.state = {"value": value, "step": step, "worse": 0}
        save_weights(self._directory, replace(self._meta, step=step), params, only=True)
        log.info("step %d: the best %s so far; saved in %s", step, self._figure.replace("_", " "), self._directory)

    @property
    def waited_enough(self) -> bool:
        """Whether train.patience evaluations in a row were not better."""
        return self._patience > 0 and self.state["worse"] >= self._patience


def figure_of(best: str, objective: Objective) -> str:
    """The figure that train.best names; empty for none.

    Raises:
      InputError: this objective does not measure it, as far as that is known before the first evaluation.
    """
    if best == "loss":
        return objective.loss_name
    measured = {objective.loss_name, objective.loss_name.replace("nats", "bits")}
    if best in TOKEN_LOSSES - measured:
        raise InputError(f"train.best: this objective measures {objective.loss_name}, not {best}; 'loss' names either")
    if best == "accuracy" and "accuracy" not in objective.evaluators:
        raise InputError("train.best: accuracy needs a classification head, which --objective joint trains")
    return best


def better(figure: str, value: float, than: float) -> bool:
    """Whether a value is better: a lower one of nats and bits, else a higher one."""
    lower = any(unit in figure.split("_") for unit in ("nats", "bits"))
    return value < than if lower else value > than
