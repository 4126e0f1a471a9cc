"""igpt train: a run, from an experiment file to figures and pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from igpt_jax.cli.common import Command, ConfiguredCommand, Flag, JoinedCommand
from igpt_jax.cli.output import fail, print_figures
from igpt_jax.cli.progress import TrainingLines, current_bars
from igpt_jax.config import Config
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
            raise InputError("train: no experiment; name a file such as my_experiment.py, or digits, which comes along")
        cfg = self.default_config()
        typed = cast(dict[str, Any], self.config)  # parsed unchecked
        init_from = typed["init_from"] or cfg.init_from
        if init_from is None:
            return Train(config=cfg)
        name = cfg.name if typed["name"] == Config.name else typed["name"]
        workdir = local_path(self.workdir or Path("runs") / name, "--workdir")
        return Train(config=with_model_of_weights(cfg, init_from, workdir, typed["init_grid"] == "interpolate"))

    def run(self) -> int:
        """Trains, then draws."""
        from igpt_jax import run
        from igpt_jax.training.loop import Interrupted
        from igpt_jax.training.metric_log import NonFiniteError

        cfg, bars = self.config, current_bars()
        workdir = local_path(self.workdir or Path("runs") / cfg.name, "--workdir")
        lines = None if bars is None else TrainingLines(cfg.name, cfg.train.steps, cfg.data.batch_size, bars)
        shown = {} if lines is None else {"writers": [lines], "on_step": lines.on_step}
        try:
            trained = run.train(cfg, workdir, wandb=self.wandb, **shown)
            report = run.report(trained)
        except Interrupted as error:
            return fail(128 + error.signum, error)
        except NonFiniteError as error:
            return fail(1, error)
        print_figures(report.figures)
        for path in report.pictures:
            print(path)
        return 0


def with_model_of_weights(cfg: Config, init_from: str, workdir: Path, keep_grid: bool) -> Config:
    """The configuration with the sizes of the weights that it starts from, or those of the run that it continues.

    Args:
      keep_grid: for position tables that are to be interpolated.
    """
    from igpt_jax.config_json import from_json
    from igpt_jax.pretrained import model_from_weights
    from igpt_jax.weights.load import inspect

    stored = workdir / "config.json"
    if stored.exists():  # the weights may be gone by now
        return replace(cfg, model=from_json(Config, stored.read_text(), str(stored)).model)
    model = model_from_weights(cfg.model, inspect(init_from).config.model)
    return replace(cfg, model=replace(model, grid=cfg.model.grid) if keep_grid else model)
