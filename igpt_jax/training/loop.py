"""The only training loop: next batch, step, numbers of the step before, checkpoint, evaluation.

What is computed is in `step`, what is on disk in `checkpoint`.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from igpt_jax import progress
from igpt_jax.config import TrainConfig
from igpt_jax.model.axes import Params
from igpt_jax.parallel.mesh import put_batch
from igpt_jax.parallel.processes import barrier
from igpt_jax.training.best import BestWeights
from igpt_jax.training.checkpoint import Checkpointer
from igpt_jax.training.metric_log import MetricLog
from igpt_jax.training.step import TrainState
from igpt_jax.training.watchdog import Watchdog

log = logging.getLogger(__name__)


class Evaluator(Protocol):
    """Measures weights on held-out images, or draws a picture with them."""

    def run(self, params: Params, step: int) -> Iterator[tuple[str, float]]:
        """Yields (name, value)."""
        ...


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved at `step`."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; saved at step {step}; the same command continues")
        self.signum, self.step = signum, step


class _Stopped(Exception):
    """The run is to save itself now."""


@dataclass
class StopRequest:
    """The signal that asked the run to stop, if any."""

    signum: int | None = None
    asked: int = 0

    def check(self, *progress: object) -> None:
        """Raises _Stopped if the run is to stop: on all processes at the same call.

        Called after every step, and whenever an evaluator reports progress.
        """
        self.asked += 1
        several = jax.process_count() > 1
        if multihost_utils.reached_preemption_sync_point(self.asked) if several else self.signum is not None:
            raise _Stopped


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Records SIGTERM and Ctrl-C, so that the loop can save first. A second signal is not caught.

    With several processes, JAX's own handler of SIGTERM tells all of them and stays in place; a Ctrl-C is passed on to
    it. Python allows handlers in the main thread alone; in another, nothing is recorded.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    several = jax.process_count() > 1

    def record(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT == request.signum:
            raise KeyboardInterrupt
        request.signum = signum
        if signum == signal.SIGTERM:
            signal.signal(signum, signal.SIG_DFL)
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    record.answer = "the run saves itself, then stops"  # pyright: ignore[reportFunctionMemberAccess]
    caught = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.signal(s, record) for s in caught}
    try:
        yield request
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@dataclass
class LoopState:
    """What a checkpoint stores of the loop itself, beside the arrays."""

    partial_line: dict[str, Any] = field(default_factory=lambda: {"sums": {}, "count": 0})
    """`MetricLog.partial_line`."""
    evaluation_pending: bool = False
    """Whether the run was stopped before or during the evaluation of its last step."""
    best: dict[str, Any] | None = None
    """`BestWeights.state`; None in checkpoints older than this field."""


def due(step: int, every: int, last: int) -> bool:
    """True every `every` steps (0: never) and at the last one."""
    return every > 0 and (step % every == 0 or step == last)


@dataclass
class TrainLoop:
    """What the loop works with, beside the state and the batches."""

    train_step: jax.stages.Wrapped
    """(state, batch) -> (state, metrics)."""
    mesh: Mesh
    cfg: TrainConfig
    checkpointer: Checkpointer
    log: MetricLog
    evaluators: Mapping[str, tuple[int, Evaluator]]
    """Name -> (every how many steps, evaluator); its values are logged as 'name/value'."""
    watchdog: Watchdog
    best: BestWeights
    on_step: Callable[[int, MetricLog], None] = lambda step, log: None
    """Called after every step, for a progress bar."""

    def run(
        self, state: TrainState, batches: Iterator[Mapping[str, np.ndarray]], start: int, loop_state: LoopState
    ) -> tuple[TrainState, dict[str, float]]:
        """Trains from step `start` to cfg.steps, or until `best` has waited enough; saves and evaluates on the way.

        Args:
          state: donated; use the one returned.
          batches: this process's slices of the global batches, beginning with number `start`.
          loop_state: of the checkpoint that the run continues from.

        Returns:
          The final state, and what the evaluators measured at the last step (empty if no step was left to train).

        Raises:
          NonFiniteError: the numbers of some step were not finite. That step is never saved.
          Interrupted: SIGTERM or SIGINT came; the state was saved first.
        """
        self.log.partial_line = loop_state.partial_line
        self.best.state = loop_state.best or self.best.state
        measured: dict[str, float] = {}
        with stop_on_signals() as stop:
            step = start
            try:
                if loop_state.evaluation_pending:
                    measured = self._evaluate(state, start, stop)
                for step in range(start + 1, self.cfg.steps + 1):
                    if self.best.waited_enough:
                        log.info("no better %s for %d evaluations: the run ends", self.cfg.best, self.cfg.patience)
                        break
                    self.watchdog.reset(f"training step {step}")
                    batch = put_batch(next(batches), self.mesh)
                    if step == start + 1:
                        self._compile(state, batch)
                    with jax.transfer_guard("disallow"):
                        state, metrics = self.train_step(state, batch)
                    self.log.push(step, metrics)
                    self.on_step(step, self.log)
                    self.checkpointer.check()
                    stop.check()
                    measured = self._evaluate(state, step, stop)
                    # After the evaluation: a run killed during it resumes before it, and misses none.
                    if due(step, self.cfg.checkpoint_every, self.cfg.steps) or self.best.waited_enough:
                        self._save(state, step, evaluation_pending=False)
            except _Stopped:
                if step > start:  # there may be no time to evaluate
                    self._save(state, step, evaluation_pending=True)
                    self.checkpointer.wait()
                raise Interrupted(stop.signum or signal.SIGTERM, step) from None
            self.log.flush()
            self.watchdog.reset("waiting for the last checkpoint")
            self.checkpointer.wait()
        return state, measured

    def _compile(self, state: TrainState, batch: Mapping[str, jax.Array]) -> None:
        """Compiles the step on all processes before the first one runs it: a collective would not wait that long."""
        self.train_step.lower(state, batch).compile()
        barrier("the train step is compiled", self.cfg.watchdog_s)

    def _evaluate(self, state: TrainState, step: int, stop: StopRequest) -> dict[str, float]:
        """Runs the evaluators that are due; 'evaluator/name' -> value. An interrupted evaluation logs nothing."""
        values: dict[str, float] = {}
        for name, (every, evaluator) in self.evaluators.items():
            if due(step, every, self.cfg.steps):
                self.watchdog.reset(f"evaluating ({name}) at step {step}")
                self.log.flush()
                with progress.listening(stop.check):
                    values |= {f"{name}/{key}": value for key, value in evaluator.run(state.eval_params, step)}
                self.log.restart_clock()
        if values:
            self.log.write(step, values)
            self.best.update(step, state.eval_params, values)
        return values

    def _save(self, state: TrainState, step: int, evaluation_pending: bool) -> None:
        self.watchdog.reset(f"saving step {step}")
        self.log.flush()  # a state that is not finite is never saved
        loop_state = LoopState(self.log.partial_line, evaluation_pending, self.best.state)
        self.checkpointer.save(state, step, asdict(loop_state))
        self.log.restart_clock()
