"""The protocol of a run: prepare, restore or initialise, fit, report.

The parts that are put together here do not know each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.config import Config
from igpt_jax.config_json import to_json
from igpt_jax.data.sources.base import Source, Split, class_counts
from igpt_jax.datasets import Data, check_classes, open_data, subset, with_absolute_source
from igpt_jax.errors import InputError
from igpt_jax.evaluation import EvalContext, Evaluators, Figures, MakeEvaluator
from igpt_jax.evaluation.pictures import PictureEvaluator, check_pictures, write_picture
from igpt_jax.files import local_path
from igpt_jax.objectives import MakeObjective, identity
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import check_splits, make_mesh, outside_mesh
from igpt_jax.parallel.processes import barrier, is_process_zero, on_process_zero, require_same
from igpt_jax.pretrained import Pretrained, check_initial, init_from_pretrained, load_workdir
from igpt_jax.sampling.draft import DRAFT, save_draft
from igpt_jax.training.best import BEST, BestWeights, figure_of
from igpt_jax.training.checkpoint import Checkpointer, CheckpointMeta, list_checkpoints
from igpt_jax.training.draft import draft_of
from igpt_jax.training.flops import rates_of
from igpt_jax.training.loop import Evaluator, LoopState, TrainLoop
from igpt_jax.training.metric_log import METRICS, MetricLog, Writer, open_writers, require_wandb
from igpt_jax.training.optimizer import make_schedule
from igpt_jax.training.step import Program, TrainState, make_program
from igpt_jax.training.watchdog import Watchdog
from igpt_jax.training.workdir import check_workdir, claim_workdir, compilation_cache_in
from igpt_jax.viz import loss_curves
from igpt_jax.weights.load import load_pretrained

log = logging.getLogger(__name__)

OnStep = Callable[[int, MetricLog], None]


@dataclass(frozen=True)
class Extensions:
    """Custom parts of a run, passed as objects instead of being registered by name."""

    source: Mapping[Split, Source] | None = None
    """The halves `train` and `eval`, instead of what data.source names."""
    objective: MakeObjective | None = None
    """Instead of the objective that cfg.objective names."""
    evaluators: Mapping[str, MakeEvaluator] = dataclasses.field(default_factory=dict)
    """Beside those of the objective."""

    @property
    def names(self) -> dict[str, str]:
        """What they are called; a source is known by its digest."""
        evaluators = ", ".join(f"{name}={identity(make)}" for name, make in sorted(self.evaluators.items()))
        named = {"objective": identity(self.objective), "evaluators": evaluators}
        return {part: name for part, name in named.items() if name}


@dataclass
class Run:
    """Everything that a run is made of, before its state; nothing has been written yet."""

    cfg: Config
    workdir: Path
    data: Data
    palette: Palette
    program: Program
    evaluators: Evaluators
    best: tuple[str, str]
    """The figure that train.best names, and which values of it are better."""
    context: EvalContext
    initial: Pretrained | None
    """Weights to start from."""
    extensions: Extensions

    @functools.cached_property
    def meta(self) -> CheckpointMeta:
        """What its checkpoints say of the run; step and loop are those of each."""
        classes = tuple(self.data.train.class_names), class_counts(self.data.train)
        return CheckpointMeta(0, self.cfg, self.palette, self.data.digests, {}, {}, *classes, self.extensions.names)


@dataclass(frozen=True)
class Trained:
    """A finished run: its last weights, or the best ones if train.best chooses them, and what was measured of them."""

    context: EvalContext
    params: Any
    workdir: Path
    step: int
    figures: Figures
    """Of these weights, on the held-out or validation images of the run (train.eval_images)."""


@dataclass(frozen=True)
class Report:
    """What a finished run shows."""

    step: int
    pictures: tuple[Path, ...]


@outside_mesh
def train(
    cfg: Config,
    workdir: str | Path,
    *,
    source: Mapping[Split, Source] | None = None,
    objective: MakeObjective | None = None,
    evaluators: Mapping[str, MakeEvaluator] | None = None,
    wandb: bool = False,
    writers: Sequence[Writer] = (),
    on_step: OnStep = lambda step, log: None,
) -> Trained:
    """Trains a configuration in a workdir, continuing from its newest checkpoint. `report` then draws the pictures.

    The workdir holds config.json, metrics.jsonl, TensorBoard events, palette.npy and checkpoints.

    Args:
      source, objective, evaluators: custom ones; see `Extensions`.
      wandb: also log to Weights & Biases.
      writers: that get every line of metrics.jsonl, on process 0.
      on_step: called after every step, for a progress bar.

    Raises:
      InputError: bad input of any kind; nothing has been overwritten then.
      NonFiniteError, Interrupted: as `TrainLoop.run` raises them.
    """
    run = prepare(cfg, local_path(workdir, "--workdir"), Extensions(source, objective, evaluators or {}))
    cfg = run.cfg
    if wandb:
        on_process_zero(lambda: require_wandb() and None)
    with claim_workdir(run.workdir, cfg), compilation_cache_in(run.workdir), Watchdog(cfg.train.watchdog_s) as watchdog:
        checkpoints = check_continues(run)  # again: another process may have trained here until now
        on_process_zero(lambda: run.palette.save(run.workdir / "palette.npy"))
        with Checkpointer(run.workdir, run.meta) as checkpointer:
            state, start, loop_state = restore_or_init(run, checkpoints, checkpointer, watchdog)
            with metric_log(run, start, wandb, writers) as metrics:
                loop = make_loop(run, checkpointer, watchdog, metrics, on_step)
                state = loop.run(state, run.data.train_batches(start), start, loop_state)
            params, step = state.eval_params, int(state.step)
            if cfg.train.best and loop.best.state["step"]:  # 0: the run was finished before it was asked for
                best = load_workdir(run.workdir / BEST, mesh=run.data.mesh)
                params, step = best.params, best.step or 0
                log.info("the best weights are those of step %d", step)
            measured_at, figures = run.evaluators.last or (None, None)
            if figures is None or measured_at != step:
                watchdog.reset("evaluating")
                figures = run.evaluators.measure(params)
            add_draft(run, watchdog)
    return Trained(run.context, params, run.workdir, step, figures)


def prepare(cfg: Config, workdir: Path, extensions: Extensions) -> Run:
    """Opens and checks everything that a run needs, and writes nothing."""
    require_same("the configuration", to_json(cfg))
    cfg = with_absolute_source(cfg)
    mesh = make_mesh(cfg.mesh)
    check_splits(cfg.data.batch_size, cfg.train.microbatches, mesh)
    data = open_data(cfg, mesh, extensions.source)
    on_process_zero(lambda: check_workdir(workdir, cfg))
    continues = bool(list_checkpoints(workdir))
    check_classes(cfg, data)
    initial = load_pretrained(cfg.init_from, mesh=mesh) if cfg.init_from and not continues else None
    # Process 0 fits it, because rounding may differ between machines.
    centers = on_process_zero(
        lambda: choose_palette(cfg, data, workdir, initial).centers.tolist(), patience_s=cfg.train.watchdog_s
    )
    palette = Palette(np.asarray(centers, np.float32))
    if initial is not None and initial.palette is not None and not palette.same_as(initial.palette):
        log.warning("the palette differs from that of %s, so token ids denote different colours", cfg.init_from)
    program = make_program(cfg, palette, mesh, extensions.objective)
    check_pictures(cfg, program.objective.pictures)
    if initial is not None:
        check_initial(program.abstract, cfg, initial)
    measured, kind = (data.held_out, "held-out") if data.validation is None else (data.validation, "validation")
    measured = subset(measured, cfg.train.eval_images)
    context = EvalContext(program.model, program.objective, palette, cfg, data, measured, kind)
    evaluators = Evaluators(context, own=extensions.evaluators)
    best = figure_of(cfg.train.best, program.objective.loss_name, evaluators.figures)
    run = Run(cfg, workdir, data, palette, program, evaluators, best, context, initial, extensions)
    check_continues(run)
    return run


def choose_palette(cfg: Config, data: Data, workdir: Path, initial: Pretrained | None) -> Palette:
    """The workdir's palette if it has one, else what palette.kind says, of model.vocab_size colours."""
    size, channels, kind = cfg.model.vocab_size, cfg.data.channels, cfg.palette.kind
    if (workdir / "palette.npy").exists():
        return Palette.load(workdir / "palette.npy").checked(size, channels, workdir / "palette.npy")
    if kind == "levels":
        return Palette.levels(size)
    if kind == "kmeans" and (initial is None or initial.palette is None):
        return Palette.fit(data.images(data.train, cfg.palette.fit_images), size, cfg.seed)
    if kind == "file":
        assert cfg.palette.path is not None
        return Palette.load(cfg.palette.path).checked(size, channels, cfg.palette.path)
    if initial is None or initial.palette is None:
        raise InputError(f"palette.kind: {cfg.init_from} holds no palette; name one with palette.path")
    return initial.palette.checked(size, channels, str(cfg.init_from))


def check_continues(run: Run) -> list[CheckpointMeta]:
    """The checkpoints of the workdir, newest first; InputError unless this run can continue from the newest."""
    checkpoints = list_checkpoints(run.workdir)
    if not checkpoints:
        return []
    newest, workdir, cfg = checkpoints[0], run.workdir, run.cfg
    if not newest.data:
        raise InputError(
            f"workdir {workdir}: holds weights imported from elsewhere, not a run; start from them in another "
            f"--workdir with --init-from {workdir}"
        )
    if newest.step > cfg.train.steps:
        raise InputError(
            f"train.steps: {workdir} has a checkpoint at step {newest.step}, beyond {cfg.train.steps} steps"
        )
    here, there = run.data.digests, newest.data
    changed = [half for half in ("train", "held_out") if there[half] != here[half]]
    if changed:
        then = f"{there['images']} then, " if "images" in there else ""  # older checkpoints do not say it
        raise InputError(
            f"data.source: {cfg.data.source} no longer holds the images that {workdir} was started with "
            f"({then}{here['images']} now; changed: {', '.join(changed)}); a run continues only on the same images: "
            "restore the original files, or start a new run from its weights with "
            f"--init-from {workdir} --workdir NEW"
        )
    for part in ("objective", "evaluators"):
        then, now = (names.get(part, "") for names in (newest.extensions, run.extensions.names))
        if then != now:
            raise InputError(
                f"{part}: {workdir} was started with {then or 'none of its own'}, and this is {now or 'none'}; "
                "pass the same objects"
            )
    if not (newest.palette and run.palette.same_as(newest.palette)):
        raise InputError(f"workdir {workdir}: palette.npy is not the one the run was started with; put it back")
    return checkpoints


def restore_or_init(
    run: Run, checkpoints: list[CheckpointMeta], checkpointer: Checkpointer, watchdog: Watchdog
) -> tuple[TrainState, int, LoopState]:
    """The state of the newest intact checkpoint, else the weights of init_from or random ones; its step; the loop's."""
    if checkpoints:
        watchdog.reset("restoring a checkpoint")
        state, meta = checkpointer.restore(run.program.abstract, checkpoints)
        log.info("continuing from step %d", meta.step)
        return state, meta.step, LoopState(**meta.loop)
    watchdog.reset("initialising the weights")
    state = run.program.init()
    if run.initial is not None:
        state = init_from_pretrained(state, run.initial, run.cfg.model.grid)
        run.initial = None  # free its memory
    return state, 0, LoopState()


@contextlib.contextmanager
def metric_log(run: Run, start: int, wandb: bool, more: Sequence[Writer] = ()) -> Iterator[MetricLog]:
    """The log of a run that continues after step `start`; process 0 writes it."""
    writers = [*open_writers(run.workdir, run.cfg, start, wandb), *more] if is_process_zero() else []
    cfg = run.cfg
    schedule = make_schedule(cfg.optim, cfg.train.steps)
    try:
        yield MetricLog(
            writers,
            cfg.train.log_every,
            cfg.data.batch_size,
            learning_rate=lambda step: float(np.asarray(schedule(step))),
            rates=rates_of(cfg),
        )
    finally:
        for writer in writers:
            with contextlib.suppress(OSError):  # once more, of what could not be written
                writer.close()


def make_loop(
    run: Run, checkpointer: Checkpointer, watchdog: Watchdog, metrics: MetricLog, on_step: OnStep
) -> TrainLoop:
    """The loop of a run, with its evaluators."""
    cfg, context = run.cfg.train, run.context
    evaluators: dict[str, tuple[int, Evaluator]] = {"eval": (cfg.eval_every, run.evaluators)}
    for name in context.objective.pictures[:1]:
        evaluators["samples"] = cfg.sample_every, PictureEvaluator(context, name, run.workdir / "samples")
    best = BestWeights(run.workdir, run.best, cfg.patience, run.meta)
    return TrainLoop(
        run.program.train_step, run.data.mesh, cfg, checkpointer, metrics, evaluators, watchdog, best, on_step
    )


def add_draft(run: Run, watchdog: Watchdog) -> None:
    """Fits the network that guesses colours while drawing, unless the workdir has it."""
    cfg, program = run.cfg, run.program
    missing = on_process_zero(lambda: not (run.workdir / DRAFT).exists())
    if not (missing and cfg.model.causal and cfg.train.draft_steps):
        return

    def batches() -> Iterator[Mapping[str, np.ndarray]]:
        for batch in run.data.train_batches(0):
            watchdog.reset("fitting the network that guesses colours")
            yield batch

    draft = draft_of(cfg, program.objective, batches(), run.data.mesh, min(cfg.train.draft_steps, cfg.train.steps))
    for workdir in (run.workdir, *([run.workdir / BEST] if (run.workdir / BEST).exists() else [])):
        on_process_zero(lambda workdir=workdir: save_draft(draft, workdir))
    log.info("%s guesses colours while drawing", DRAFT)


@outside_mesh
def report(trained: Trained, levels: Mapping[str, float] | None = None) -> Report:
    """Writes the objective's pictures into the workdir; loss.png if matplotlib is there.

    `levels` are losses of other methods, by name, which loss.png shows beside the curves.
    """
    context, workdir = trained.context, trained.workdir
    barrier("the pictures", context.cfg.train.watchdog_s)  # hosts may have fitted cheap methods at different speeds
    with compilation_cache_in(workdir), Watchdog(context.cfg.train.watchdog_s) as watchdog:
        pictures = []
        for name in context.objective.pictures:
            watchdog.reset(f"drawing {name}")
            log.info("drawing %s", name)
            pictures.append(workdir / f"{name}.png")
            write_picture(context, trained.params, name, pictures[-1], 64)
        if importlib.util.find_spec("matplotlib") is None:
            log.warning("no loss.png, which needs matplotlib: pip install 'igpt_jax[plot]'")
            return Report(trained.step, tuple(pictures))
        pictures.append(workdir / "loss.png")
        metric = context.objective.loss_name
        on_process_zero(lambda: loss_curves(workdir / METRICS, pictures[-1], dict(levels or {}), metric))
    return Report(trained.step, tuple(pictures))
