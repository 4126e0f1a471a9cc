"""Where a run's numbers go: metrics.jsonl, TensorBoard and, when asked for, Weights & Biases. Process 0 writes."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from igpt_jax.config import Config, InputError
from igpt_jax.config_json import flatten
from igpt_jax.palette import replace_file

METRICS = "metrics.jsonl"


class Writer(Protocol):
    """Takes scalars of a step."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """One JSON object a line: {"step": k, name: value, ...}."""

    def __init__(self, workdir: Path, from_step: int):
        """Lines of steps after `from_step`, left by a run that was cut off, are dropped: those steps come again."""
        self._path = workdir / METRICS
        if self._path.exists():
            kept = [line for line in self._path.read_text().splitlines() if _step_of(line) <= from_step]
            with replace_file(self._path) as file:
                file.write("".join(line + "\n" for line in kept).encode())
        self._file = open(self._path, "a")  # noqa: SIM115 (held as long as the run)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf  # torn by a kill


class TensorBoardWriter:
    """Event files in the workdir, by tensorboardX."""

    def __init__(self, workdir: Path, from_step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=from_step + 1 if from_step else None)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def require_wandb() -> Any:
    """The module; InputError where it is not installed."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("wandb is not installed; pip install -e '.[wandb]', or leave --wandb out") from None
    return wandb


class WandbWriter:
    """A Weights & Biases run named after the configuration, one for a workdir; needs the extra `wandb`."""

    def __init__(self, workdir: Path, cfg: Config):
        file = workdir / "wandb_id"
        if not file.exists():
            file.write_text(secrets.token_hex(8))
        self._run = require_wandb().init(
            project="igpt_jax",
            id=file.read_text(),
            name=cfg.name,
            dir=str(workdir),
            config=flatten(cfg),
            resume="allow",
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()
