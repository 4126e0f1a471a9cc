"""The only training loop. It reads like the protocol of a run: next batch, step, numbers of the step before,
checkpoint, evaluation. What is computed is in `state`, what is on disk in `checkpoint`.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from igpt_jax.config import TrainConfig
from igpt_jax.parallel.mesh import put_batch
from igpt_jax.parallel.multihost import meet
from igpt_jax.training.checkpoint import Checkpointer
from igpt_jax.training.metrics import Writer
from igpt_jax.training.state import Metrics, Params, TrainState
from igpt_jax.training.watchdog import Watchdog


class Evaluator(Protocol):
    """Looks at the weights every so often; pictures and the like it writes itself."""

    def run(self, params: Params, step: int) -> Iterator[tuple[str, float]]: ...


class NonFiniteError(RuntimeError):
    """A loss or gradient was NaN or infinite."""


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved at `step`."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; saved at step {step}; the same command continues")
        self.signum, self.step = signum, step


@dataclass
class StopRequest:
    """The signal that asked the run to stop, if any."""

    signum: int | None = None

    def reached(self, step: int) -> bool:
        """Whether to save after this step and stop. Asked after every step; all processes hear the same answer."""
        if jax.process_count() == 1:
            return self.signum is not None
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        self.signum = self.signum or signal.SIGTERM
        return True


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """SIGTERM and Ctrl-C only note that they came, so that the loop can save first. A second one is not caught.

    With several processes JAX's own handler of SIGTERM tells all of them, and keeps catching it; a Ctrl-C here is
    passed to it.
    """
    request = StopRequest()
    together = jax.process_count() > 1

    def note(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
        if together:
            os.kill(os.getpid(), signal.SIGTERM)

    caught = (signal.SIGINT,) if together else (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.signal(s, note) for s in caught}
    try:
        yield request
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


class LateMetrics:
    """Holds a step's numbers on the device until the next step is under way, then checks, averages and writes them."""

    def __init__(
        self, writers: Sequence[Writer], log_every: int, batch_size: int, learning_rate: Callable[[int], float]
    ):
        self._writers, self._log_every, self._batch_size = writers, log_every, batch_size
        self._learning_rate = learning_rate
        self._pending: tuple[int, Metrics] | None = None
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since: float | None = None
        self._timed = 0
        self.images_per_s = math.nan
        self.loss = math.nan
        self.evaluated: tuple[int, dict[str, float]] = (0, {})
        """The step of the last evaluation, and what it found."""
        self.owing = False
        """Whether the run was stopped before the evaluation of its last step."""

    @property
    def unwritten(self) -> dict[str, Any]:
        """What has been summed since the last line, and whether an evaluation is owing; a checkpoint keeps it, so that
        a continued run writes what the uninterrupted one does."""
        return {"sums": dict(self._sums), "count": self._count, "owing": self.owing}

    @unwritten.setter
    def unwritten(self, kept: Mapping[str, Any]) -> None:
        self._sums, self._count, self.owing = dict(kept["sums"]), kept["count"], kept["owing"]

    def push(self, step: int, metrics: Metrics) -> None:
        """Takes the numbers of `step` and fetches those of the step before."""
        if self._since is None:
            self.restart_clock()  # the first step has been compiled by now
        before, self._pending = self._pending, (step, metrics)
        if before is not None:
            self._take(*before)

    def flush(self) -> None:
        """Fetches what is still on the device. Raises NonFiniteError as `push` does."""
        if self._pending is not None:
            self._take(*self._pending)
            self._pending = None

    def restart_clock(self) -> None:
        """Called after anything that is not training, so that images/s speaks of training alone."""
        self._since, self._timed = time.perf_counter(), 0

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write(step, scalars)

    def _take(self, step: int, metrics: Metrics) -> None:
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
        self._timed += 1
        assert self._since is not None
        self.images_per_s = self._timed * self._batch_size / (time.perf_counter() - self._since)
        if step % self._log_every == 0:
            means = {f"train/{name}": total / self._count for name, total in self._sums.items()}
            rates = {"train/learning_rate": self._learning_rate(step - 1), "train/images_per_s": self.images_per_s}
            self.write(step, means | rates)
            self._sums, self._count = {}, 0
            self.restart_clock()


def due(step: int, every: int, last: int) -> bool:
    """True every `every` steps (0: never) and at the last one."""
    return every > 0 and (step % every == 0 or step == last)


def fit(
    state: TrainState,
    train_step: jax.stages.Wrapped,
    batches: Iterator[Mapping[str, np.ndarray]],
    *,
    start: int,
    cfg: TrainConfig,
    mesh: Mesh,
    checkpointer: Checkpointer,
    metrics: LateMetrics,
    evaluators: Mapping[str, tuple[int, Evaluator]],
    dog: Watchdog,
    on_step: Callable[[int, LateMetrics], None] = lambda step, metrics: None,
) -> TrainState:
    """Trains from step `start` to cfg.steps; saves and evaluates on the way and at the end.

    Args:
      state: donated; use the one returned.
      train_step: (state, batch) -> (state, metrics), as `make_train_step` makes it.
      batches: this process's slices of the global batches, beginning with number `start`.
      evaluators: name -> (every how many steps, evaluator); their values are logged as 'name/value'.
      dog: told of everything that is begun.
      on_step: told after every step, for a progress bar.

    Raises:
      NonFiniteError: the numbers of some step were not finite. That step is never saved.
      Interrupted: SIGTERM or SIGINT came; the state was saved first.
    """

    def evaluate(step: int) -> None:
        for name, (every, evaluator) in evaluators.items():
            if due(step, every, cfg.steps):
                dog.beat(f"evaluating ({name}) at step {step}")
                metrics.flush()
                found = {f"{name}/{key}": value for key, value in evaluator.run(state.best_params, step)}
                if found:
                    metrics.write(step, found)
                    before = metrics.evaluated[1] if metrics.evaluated[0] == step else {}
                    metrics.evaluated = (step, before | found)
                metrics.restart_clock()

    def save(step: int) -> None:
        dog.beat(f"saving step {step}")
        metrics.flush()  # nothing that is not finite is ever saved
        checkpointer.save(state, step, metrics.unwritten)
        metrics.restart_clock()

    with stop_on_signals() as stop:
        if metrics.owing:
            evaluate(start)
            metrics.owing = False
        for step in range(start + 1, cfg.steps + 1):
            dog.beat(f"training step {step}")
            batch = put_batch(next(batches), mesh)
            if step == start + 1:
                train_step.lower(state, batch).compile()  # and not again when it is called
                meet("the train step is compiled", cfg.watchdog_s)  # a collective would not wait for long
            with jax.transfer_guard("disallow"):
                state, numbers = train_step(state, batch)
            metrics.push(step, numbers)
            on_step(step, metrics)
            checkpointer.check()
            if stop.reached(step):
                metrics.owing = True  # there may be no time for it
                save(step)
                checkpointer.wait()
                raise Interrupted(stop.signum or signal.SIGTERM, step)
            evaluate(step)
            # After the evaluation: a run killed during it goes back to before it, and has missed none.
            if due(step, cfg.checkpoint_every, cfg.steps):
                save(step)
        metrics.flush()
        dog.beat("waiting for the last checkpoint")
        checkpointer.wait()
    return state
