"""A run's numbers: fetched one step late, averaged between lines, and written to files. Process 0 writes."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from igpt_jax.config import Config
from igpt_jax.config_json import flatten, json_text
from igpt_jax.errors import InputError
from igpt_jax.files import replace_file

METRICS = "metrics.jsonl"


class NonFiniteError(RuntimeError):
    """A loss or gradient was NaN or infinite."""


class Writer(Protocol):
    """Takes the numbers of a step."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class MetricLog:
    """Keeps a step's numbers on the device until the next step runs, then checks, averages and writes them.

    `loss` is that of the last step fetched, and `images_per_s` the rate since the last line.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        log_every: int,
        batch_size: int,
        learning_rate: Callable[[int], float],
        rates: Callable[[float], Mapping[str, float]] = lambda images_per_s: {},
    ):
        self._writers, self._log_every, self._batch_size = writers, log_every, batch_size
        self._learning_rate, self._rates = learning_rate, rates
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._sums: dict[str, float] = {}
        self._count = 0
        self._clock_start: float | None = None
        self._steps_timed = 0
        self.images_per_s = math.nan
        self.loss = math.nan

    @property
    def partial_line(self) -> dict[str, Any]:
        """What has been summed since the last line. A checkpoint stores it, so a resumed run writes the same lines."""
        return {"sums": dict(self._sums), "count": self._count}

    @partial_line.setter
    def partial_line(self, stored: Mapping[str, Any]) -> None:
        self._sums, self._count = dict(stored["sums"]), stored["count"]

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the numbers of `step`, and fetches those of the step before. NonFiniteError if one is not finite."""
        if self._clock_start is None:
            self.restart_clock()  # the first step has been compiled by now
        before, self._pending = self._pending, (step, metrics)
        if before is not None:
            self._add(*before)

    def flush(self) -> None:
        """Fetches what is still on the device."""
        if self._pending is not None:
            self._add(*self._pending)
            self._pending = None

    def restart_clock(self) -> None:
        """Called after anything that is not training, so that images/s counts training alone."""
        self._clock_start, self._steps_timed = time.perf_counter(), 0

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        try:
            for writer in self._writers:
                writer.write(step, scalars)
        except OSError as error:
            raise InputError(
                f"the metrics of step {step} could not be written ({error.strerror}); make room or mend the rights of "
                "the workdir, then the same command continues from the last checkpoint"
            ) from error

    def _add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        values = {name: float(x) for name, x in jax.device_get(metrics).items()}
        if not all(map(math.isfinite, values.values())):
            shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise NonFiniteError(
                f"step {step}: {shown}; stopped, and nothing was saved since the last good checkpoint. A lower "
                "optim.lr, a longer optim.warmup_steps or an optim.clip_norm, in a new workdir, usually cures it"
            )
        self.loss = values["loss"]
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._steps_timed += 1
        assert self._clock_start is not None
        self.images_per_s = self._steps_timed * self._batch_size / (time.perf_counter() - self._clock_start)
        if step % self._log_every == 0:
            means = {f"train/{name}": total / self._count for name, total in self._sums.items()}
            speed = {"images_per_s": self.images_per_s, **self._rates(self.images_per_s)}
            means["train/learning_rate"] = self._learning_rate(step - 1)
            self.write(step, means | {f"train/{name}": value for name, value in speed.items()})
            self._sums, self._count = {}, 0
            self.restart_clock()


class JsonlWriter:
    """One JSON object a line: {"step": k, name: value, ...}."""

    def __init__(self, workdir: Path, from_step: int):
        """Drops the lines of steps after `from_step`, which a killed run left: those steps are repeated."""
        self._path = workdir / METRICS
        if self._path.exists():
            kept = [record for record in read_metrics(workdir) if record["step"] <= from_step]
            with replace_file(self._path) as file:
                file.write("".join(json_text(record, indent=None) for record in kept).encode())
        self._file = open(self._path, "a")  # noqa: SIM115 (open as long as the run)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._file.write(json_text({"step": step, **scalars}, indent=None))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def last_evaluation(workdir: Path, step: int | None) -> dict[str, float]:
    """What the evaluators of a run measured last, up to a step: name -> value, with the step; empty if nothing."""
    values: dict[str, float] = {}
    for record in read_metrics(workdir):
        known = {key: value for key, value in record.items() if key.startswith("eval/") and value is not None}
        measured = {key.removeprefix("eval/"): value for key, value in known.items()}
        if measured and (step is None or record["step"] <= step):
            values = {"step": record["step"], **measured}
    return values


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without one that a kill has torn or that is being written."""
    path = workdir / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [record for record in map(_record, lines) if record is not None]


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


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
        raise InputError("wandb is not installed; pip install 'igpt_jax[wandb]', or leave --wandb out") from None
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


def open_writers(workdir: Path, cfg: Config, from_step: int, wandb: bool) -> list[Writer]:
    """The writers of a run that continues after step `from_step`."""
    writers: list[Writer] = [JsonlWriter(workdir, from_step), TensorBoardWriter(workdir, from_step)]
    return [*writers, WandbWriter(workdir, cfg)] if wandb else writers
