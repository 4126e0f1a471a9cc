"""What several commands have in common: their options, and how they load weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import tyro

from igpt_jax.config import Config, MeshConfig, ModelConfig
from igpt_jax.config_json import to_json
from igpt_jax.errors import InputError
from igpt_jax.files import local_path
from igpt_jax.model_config import PRESETS

if TYPE_CHECKING:
    from igpt_jax.pretrained import Pretrained

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Inline = tyro.conf.arg(name="")
"""For a group of options whose names have no prefix."""


def check_at_least_one(**options: int | None) -> None:
    """Raises InputError that names an option whose number is below 1."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise InputError(f"{'-' if len(name) == 1 else '--'}{name} {value}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class CommonArgs:
    """Options of every command."""

    plugin: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A Python file that registers an objective, a source, an evaluator or an attention backend (CONTRIBUTING.md)."""
    quiet: Flag = False
    """Only results and errors: no progress, no log lines."""


@dataclass(frozen=True, kw_only=True)
class ProcessArgs:
    """Several processes as one; Slurm, Open MPI, Kubernetes and Cloud TPU say all of it themselves."""

    coordinator: str | None = None
    """HOST:PORT that process 0 opens."""
    num_processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """Which one this is, from 0."""
    join_timeout_s: float = 300.0
    """How long processes wait for each other at the start."""


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """A command."""

    less_memory: ClassVar[str] = "a smaller --batch-size needs less"
    """The way out where memory is too small."""
    common: Annotated[CommonArgs, Inline] = field(default_factory=CommonArgs)

    @abstractmethod
    def run(self) -> int | None:
        """Returns the exit code, or None for 0."""

    def defaults(self) -> Command | None:
        """Of a command parsed unchecked: the defaults that its files ask for, over which it is parsed again."""
        return None

    def with_weights(self, default: Any) -> Any:
        """Of one parsed unchecked over `default`: that with the sizes of the weights that a run starts from.

        All processes call it together.
        """
        return default


@dataclass(frozen=True, kw_only=True)
class JoinedCommand(Command):
    """A command that may run over several processes."""

    processes: Annotated[ProcessArgs, Inline] = field(default_factory=ProcessArgs)


@dataclass(frozen=True, kw_only=True)
class ConfiguredCommand(Command):
    """A command about a run: an experiment, and any key of its configuration."""

    experiment: tyro.conf.Positional[str | None] = None
    """A Python file with config(tiny=False) -> Config, or the name of one that comes with igpt_jax (digits, ...)."""
    tiny: Flag = False
    """The experiment's small form, to see that it works."""
    preset: Annotated[Literal["s", "m", "l", "xl"] | None, tyro.conf.arg(name="model.preset")] = None
    """A model of the paper: its layers, heads and width (xl: its grid too)."""
    config: Annotated[Config, Inline] = field(default_factory=Config)

    def default_config(self) -> Config:
        """The experiment's configuration with the preset in it."""
        from igpt_jax.plugins import load_config

        cfg = load_config(self.experiment, self.tiny) if self.experiment else Config()
        return replace(cfg, model=replace(cfg.model, **PRESETS[self.preset])) if self.preset else cfg

    def defaults(self) -> Command:
        return type(self)(config=self.default_config())

    def require_named(self, command: str) -> None:
        """Raises InputError if neither an experiment nor a preset is named."""
        if self.experiment is None and self.preset is None:
            raise InputError(f"{command}: name an experiment, such as digits, or a model with --model.preset")

    def run_directory(self) -> Path | None:
        """Where the run may have begun already."""
        return None

    def with_weights(self, default: ConfiguredCommand) -> ConfiguredCommand:
        typed = cast(dict[str, Any], self.config)  # parsed unchecked
        if typed["init_from"] is None:
            return default
        model, directory = default.config.model, self.run_directory()
        keep_grid = typed["init_grid"] == "interpolate"
        model = model_to_start(model, typed["init_from"], directory, keep_grid)
        model = replace(model, **PRESETS[self.preset]) if self.preset else model
        return replace(default, config=replace(default.config, model=model))


def model_to_start(model: ModelConfig, init_from: str, run_directory: Path | None, keep_grid: bool) -> ModelConfig:
    """The model of a run that starts from weights: their sizes, or those of the run itself if it has begun."""
    from igpt_jax.config_json import from_json
    from igpt_jax.parallel.processes import on_process_zero
    from igpt_jax.pretrained import model_from_weights
    from igpt_jax.weights.load import inspect

    stored = None if run_directory is None else run_directory / "config.json"
    text = on_process_zero(lambda: stored.read_text() if stored is not None and stored.exists() else None)
    run = None if text is None else from_json(Config, text, str(stored))
    if run is not None and run.init_from == init_from:  # the weights may be gone by now
        return run.model
    started = model_from_weights(model, inspect(init_from).config.model)
    return replace(started, grid=model.grid) if keep_grid else started


@dataclass(frozen=True, kw_only=True)
class ModelArgs:
    """Which weights to use."""

    model: str | None = None
    """A workdir of igpt train, an OpenAI checkpoint (its prefix), a Hugging Face directory, or a Hub name."""
    workdir: str | None = None
    """The same as --model."""
    step: int | None = None
    """Checkpoint of a workdir; by default the newest."""
    palette: Path | None = None
    """A palette .npy, for weights that come without one."""
    allow_nonfinite: Flag = False
    """Load weights that hold NaN or infinite numbers."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Where the weights lie: by default whole on every device, and the images are split over the devices."""

    @property
    def path(self) -> str:
        """What --model or --workdir names; exactly one of them must."""
        if self.model is not None and self.workdir is not None:
            raise InputError("--model and --workdir both name the weights; leave one of them out")
        path = self.workdir if self.model is None else self.model
        if path is None:
            raise InputError("--model: missing; name a workdir, a checkpoint, a directory or a Hub name")
        return path

    def load(self) -> Pretrained:
        """The weights and what belongs to them."""
        from igpt_jax.parallel.mesh import make_mesh
        from igpt_jax.parallel.processes import require_same
        from igpt_jax.weights.load import load_pretrained

        weights = load_pretrained(
            self.path,
            step=self.step,
            palette=self.palette,
            mesh=make_mesh(self.mesh),
            allow_nonfinite=self.allow_nonfinite,
        )
        centers = weights.palette and weights.palette.centers.tolist()
        require_same(
            f"what --model {self.path} holds",
            f"{to_json(weights.config)} {weights.step} {centers} {weights.draft is None}",
        )
        return weights

    def result_path(self, out: Path | None, name: str) -> Path:
        """`out`, or else `name` in the workdir or the current directory."""
        workdir = Path(self.path)
        return local_path(out or (workdir / name if (workdir / "checkpoints").is_dir() else Path(name)), "--out")

    def load_with(self, source: str | None, batch_size: int | None) -> Pretrained:
        """The weights, to be measured on the images of `source`, or else on those of the run."""
        weights = self.load()
        data, train = weights.config.data, weights.config.train
        if source is not None:
            data, weights = replace(data, source=source), replace(weights, data={})  # not those of the run
        elif not weights.data:
            raise InputError(f"--model {self.path}: is not a run with images of its own; name some with --source")
        if batch_size is not None:
            train = replace(train, eval_batch_size=batch_size)
        return replace(weights, config=replace(weights.config, data=data, train=train))
