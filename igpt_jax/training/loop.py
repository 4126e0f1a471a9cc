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
from typing import Any, NoReturn, Protocol

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

SIGNALS_SAVE = False
"""Whether a run in this process would save itself at a signal now."""


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


@dataclass
class StopRequest:
    """The signal that asked the run to stop, if any."""

    signum: int | None = None
    asked: int = 0
    """How often `reached` was asked; all processes ask equally often."""

    def reached(self) -> bool:
        """Whether to save and stop now. All processes get the same answer."""
        self.asked += 1
        if jax.process_count() == 1:
            return self.signum is not None
        if not multihost_utils.reached_preemption_sync_point(self.asked):
            return False
        self.signum = self.signum or signal.SIGTERM
        return True

    def between_batches(self, what: str, done: int, total: int) -> None:
        """A `progress.Listener` that ends an evaluation: it may take longer than a cloud waits after SIGTERM."""
        if self.reached():
            raise StopEvaluation


class StopEvaluation(Exception):
    """A signal came while an evaluation ran."""


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Records SIGTERM and Ctrl-C, so that the loop can save first. A second signal is not caught.

    With several processes, JAX's own handler of SIGTERM tells all of them and stays in place; a Ctrl-C is passed on to
    it. Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    several = jax.process_count() > 1

    def record(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    caught = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.signal(s, record) for s in caught}
    global SIGNALS_SAVE
    SIGNALS_SAVE = True
    try:
        yield request
    finally:
        SIGNALS_SAVE = False
        for s, handler in before.items():
            signal.signal(s, handler)


@dataclass
class LoopState:
    """What a checkpoint stores of the loop itself, beside the arrays."""

    partial_line: dict[str, Any] = field(default_factory=lambda: {"sums": {}, "count": 0})
    """`MetricLog.partial_line`."""
    evaluation_pending: bool = False
    """Whether the run was stopped before the evaluation of its last step."""
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
    _start: int = 0

    def run(
        self, state: TrainState, batches: Iterator[Mapping[str, np.ndarray]], start: int, loop_state: LoopState
    ) -> TrainState:
        """Trains from step `start` to cfg.steps, or until `best.should_stop`; saves and evaluates on the way.

        `state` is donated, so use the one returned. `batches` are this process's slices of the global batches, from
        number `start` on.

        Raises:
          NonFiniteError: the numbers of some step were not finite. That step is never saved.
          Interrupted: SIGTERM or SIGINT came; the state was saved first.
        """
        self._start, self.log.partial_line = start, loop_state.partial_line
        self.best.state = loop_state.best or self.best.state
        with stop_on_signals() as stop:
            if loop_state.evaluation_pending:
                self._evaluate(state, start, stop)
            for step in range(start + 1, self.cfg.steps + 1):
                if self.best.should_stop:
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
                if stop.reached():  # there may be no time to evaluate
                    self._save_and_stop(state, step, stop)
                self._evaluate(state, step, stop)
                # After the evaluation: a run killed during it resumes before it, and misses none.
                if due(step, self.cfg.checkpoint_every, self.cfg.steps) or self.best.should_stop:
                    self._save(state, step, evaluation_pending=False)
            self.log.flush()
            self.watchdog.reset("waiting for the last checkpoint")
            self.checkpointer.wait()
        return state

    def _compile(self, state: TrainState, batch: Mapping[str, jax.Array]) -> None:
        """Compiles the step on all processes before the first one runs it: a collective would not wait that long."""
        self.train_step.lower(state, batch).compile()
        barrier("the train step is compiled", self.cfg.watchdog_s)

    def _evaluate(self, state: TrainState, step: int, stop: StopRequest) -> None:
        """Runs the evaluators that are due, and logs what they measure. Nothing is logged if a signal ends one."""
        values: dict[str, float] = {}
        asked = {name: run for name, (every, run) in self.evaluators.items() if due(step, every, self.cfg.steps)}
        if not asked:
            return
        self.log.flush()
        try:
            with progress.listening(stop.between_batches):
                for name, evaluator in asked.items():
                    self.watchdog.reset(f"evaluating ({name}) at step {step}")
                    values |= {f"{name}/{key}": value for key, value in evaluator.run(state.eval_params, step)}
        except StopEvaluation:
            self._save_and_stop(state, step, stop)
        if values:
            self.log.write(step, values)
            self.best.update(step, state.eval_params, values)
        self.log.restart_clock()

    def _save_and_stop(self, state: TrainState, step: int, stop: StopRequest) -> NoReturn:
        """Saves a state whose evaluation is to be done when the run continues, if it was not continued from it."""
        if step != self._start:
            self._save(state, step, evaluation_pending=True)
            self.checkpointer.wait()
        raise Interrupted(stop.signum or signal.SIGTERM, step)

    def _save(self, state: TrainState, step: int, evaluation_pending: bool) -> None:
        self.watchdog.reset(f"saving step {step}")
        self.log.flush()  # a state that is not finite is never saved
        loop_state = LoopState(self.log.partial_line, evaluation_pending, self.best.state)
        self.checkpointer.save(state, step, asdict(loop_state))
        self.log.restart_clock()
