"""Where a run's numbers go: metrics.jsonl, TensorBoard and, when asked for, Weights & Biases. Process 0 writes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from igpt_jax.config import Config, InputError, flatten

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
            tmp = self._path.with_suffix(".tmp")
            tmp.write_text("".join(line + "\n" for line in kept))
            tmp.replace(self._path)
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


class WandbWriter:
    """A Weights & Biases run named after the configuration; needs the extra `wandb`."""

    def __init__(self, workdir: Path, cfg: Config):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError("wandb is not installed; pip install 'igpt_jax[wandb]', or leave --wandb out") from None
        config: dict[str, Any] = flatten(cfg)
        # The same workdir is the same run there, however often it is continued.
        run_id = hashlib.sha1(str(workdir.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project="igpt_jax", id=run_id, name=cfg.name, dir=str(workdir), config=config, resume="allow"
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()
