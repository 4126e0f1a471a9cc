"""The best weights of a run, kept beside its newest, and when a run need not go on (paper section 3.4)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from igpt_jax.errors import InputError, nearest
from igpt_jax.model.axes import Params
from igpt_jax.objectives import Figure
from igpt_jax.training.checkpoint import CheckpointMeta, save_weights

log = logging.getLogger(__name__)

BEST = "best"
"""The folder of the workdir that holds them; it can be loaded like a workdir."""


class BestWeights:
    """Follows a figure (`figure_of`) over the evaluations of a run."""

    def __init__(self, workdir: Path, figure: tuple[str, str], patience: int, meta: CheckpointMeta) -> None:
        self._directory, self._patience = workdir / BEST, patience
        self._figure, self._better = figure
        # the weights that are saved are the averaged ones, if there is an average
        plain = replace(meta.config, optim=replace(meta.config.optim, ema_decay=None))
        self._meta = replace(meta, config=plain)
        self.state: dict[str, Any] = {"value": None, "step": 0, "worse": 0}
        """What a checkpoint stores: the best value so far, its step, and how many evaluations since were worse."""

    def update(self, step: int, params: Params, measured: Mapping[str, float]) -> None:
        """Saves the weights if their evaluation is the best so far. Nothing happens where none was done."""
        figures = {name.removeprefix("eval/"): value for name, value in measured.items() if name.startswith("eval/")}
        if not self._figure or not figures:
            return
        if self._figure not in figures:
            raise InputError(f"train.best: {self._figure} counts none of the images that are measured")
        value, best = figures[self._figure], self.state["value"]
        if best is not None and not is_better(self._better, value, best):
            self.state["worse"] += 1
            return
        self.state = {"value": value, "step": step, "worse": 0}
        save_weights(self._directory, replace(self._meta, step=step), params, only=True)
        log.info("step %d: the best %s so far; saved in %s", step, self._figure.replace("_", " "), self._directory)

    @property
    def should_stop(self) -> bool:
        """Whether train.patience evaluations in a row were not better."""
        return self._patience > 0 and self.state["worse"] >= self._patience


def figure_of(best: str, loss_name: str, figures: Mapping[str, Figure]) -> tuple[str, str]:
    """The figure that train.best names, and whether lower or higher values of it are better; no name for none.

    `figures` are those that are measured while training, the loss among them.
    """
    if not best:
        return "", "lower"
    name = loss_name if best == "loss" else best
    known = {loss_name.replace("nats", "bits"): figures[loss_name], **figures} if loss_name in figures else figures
    if name not in known:
        choices = ", ".join(("loss", *known))
        raise InputError(f"train.best: must be one of {choices}; got {best!r}{nearest(best, known)}")
    return name, known[name].better


def is_better(better: str, value: float, than: float) -> bool:
    """Whether a value is better; NaN never is."""
    return value < than if better == "lower" else value > than
