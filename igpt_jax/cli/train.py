"""igpt train: a run, from an experiment file to figures and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from igpt_jax.cli.common import Command, ConfiguredCommand, Flag, JoinedCommand
from igpt_jax.cli.figures import print_figures
from igpt_jax.cli.output import fail
from igpt_jax.cli.progress import TrainingLines, current_bars
from igpt_jax.errors import InputError
from igpt_jax.files import local_path


@dataclass(frozen=True, kw_only=True)
class Train(JoinedCommand, ConfiguredCommand):
    """Train a model, and show what it learned. The same command continues an interrupted run.

    Every option with a dot is a key of the configuration, and its default is the experiment's. With --init-from, the
    model's sizes are those of the weights unless --model.* says otherwise.
    """

    less_memory: ClassVar[str] = (
        "--train.microbatches 4, --compute.remat full, a smaller --data.batch-size or, on several devices, "
        "--mesh.fsdp need less; igpt plan computes how much"
    )
    workdir: str | None = None
    """Directory of the run, which is continued if it is there; by default runs/NAME."""
    wandb: Flag = False
    """Also log to Weights & Biases."""

    def defaults(self) -> Command:
        if self.experiment is None:
            raise InputError("train: no experiment; name a file such as my_experiment.py, or the built-in digits")
        return super().defaults()

    def run_directory(self) -> Path:
        name = self.config["name"] if isinstance(self.config, dict) else self.config.name  # parsed unchecked, or not
        return local_path(self.workdir or Path("runs") / name, "--workdir")

    def run(self) -> int:
        from igpt_jax import run
        from igpt_jax.analysis.beside import beside
        from igpt_jax.training.loop import Interrupted
        from igpt_jax.training.metric_log import NonFiniteError

        cfg, bars = self.config, current_bars()
        lines = None if bars is None else TrainingLines(cfg, bars)
        shown = {} if lines is None else {"writers": [lines], "on_step": lines.on_step}
        try:
            trained = run.train(cfg, self.run_directory(), wandb=self.wandb, **shown)
            figures = beside(trained.figures, trained.context)
            levels = {name: e.value for name, e in figures.cheap.get(figures.metric, {}).items()}
            report = run.report(trained, levels)
        except Interrupted as error:
            return fail(128 + error.signum, error)
        except NonFiniteError as error:
            return fail(1, error)
        print_figures(figures)
        for path in report.pictures:
            print(path)
        return 0
