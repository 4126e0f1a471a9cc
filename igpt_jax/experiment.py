"""From a configuration to a finished run: opens the data, builds what the loop needs, trains, writes the report.

An experiment file is a Python file with a function `config(tiny=False) -> Config`. The parts put together here do
not know each other.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from igpt_jax.config import Config, InputError
from igpt_jax.config_json import from_json, to_json
from igpt_jax.evaluation.pictures import (
    Reconstructions,
    SampleGrids,
    write_completions,
    write_reconstructions,
    write_samples,
)
from igpt_jax.figures import Figures, gather, measures, run_all
from igpt_jax.inputs import Data, check_classes, find_palette, open_data, subset
from igpt_jax.interop.load import load_pretrained
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import check_splits, make_mesh
from igpt_jax.parallel.multihost import decide, is_first, require_same
from igpt_jax.sampling.sampler import top_rows
from igpt_jax.training.checkpoint import Checkpointer, DamagedError, Meta, described
from igpt_jax.training.loop import LateMetrics, fit
from igpt_jax.training.metrics import METRICS, JsonlWriter, TensorBoardWriter, WandbWriter, Writer, require_wandb
from igpt_jax.training.pretrained import Pretrained, begin_with, check_initial
from igpt_jax.training.program import make_program
from igpt_jax.training.state import TrainState
from igpt_jax.training.watchdog import Watchdog
from igpt_jax.training.workdir import check_workdir, claim_workdir, compilations_kept
from igpt_jax.viz import loss_curves

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a finished run shows."""

    step: int
    figures: Figures
    pictures: tuple[Path, ...]


def load_config(path: str | Path, tiny: bool = False) -> Config:
    """The configuration that an experiment file describes.

    Raises:
      InputError: no such file, it does not run, or has no `config`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"experiment {path}: no such file; it comes before its overrides, and experiments/ holds some")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"experiment {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        cfg = module.config(tiny=tiny)
        if isinstance(cfg, Config):
            cfg = from_json(Config, to_json(cfg), "its configuration")  # so that every value has its type
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"experiment {path}: {type(error).__name__}: {error}") from error
    if not isinstance(cfg, Config):
        raise InputError(f"experiment {path}: config() gave {type(cfg).__name__}, not igpt_jax.config.Config")
    return cfg


def train(
    cfg: Config,
    workdir: str | Path,
    *,
    wandb: bool = False,
    on_step: Callable[[int, LateMetrics], None] = lambda step, metrics: None,
) -> Report:
    """Trains a configuration in a workdir, continuing from its newest checkpoint, and writes the report.

    The workdir then holds config.json, metrics.jsonl, TensorBoard events, palette.npy, checkpoints, samples.png,
    completions.png and loss.png.

    Raises:
      InputError: bad input of any kind; nothing has been overwritten then.
      NonFiniteError, Interrupted: as `fit` raises them.
    """
    workdir = Path(workdir)
    require_same("the configuration", to_json(cfg))
    mesh = make_mesh(cfg.mesh)
    check_splits(cfg.train.batch_size, cfg.train.microbatches, mesh)
    data = open_data(cfg, mesh)
    decide(lambda: check_workdir(workdir, cfg))
    begun = described(workdir)
    if begun:
        check_continues(begun[0], cfg, data, workdir)
    check_classes(cfg, data)
    given = None
    if not begun and cfg.train.init_from is not None:
        given = load_pretrained(cfg.train.init_from, mesh=mesh)
    # Process 0 fits it, since rounding may differ between machines.
    centers = decide(lambda: find_palette(cfg, data, workdir, given and given.palette).centers.tolist())
    palette = Palette(np.asarray(centers, np.float32))
    if begun:
        check_palette_stays(begun[0], palette, workdir)
    if given is not None and given.palette is not None and not palette.same_as(given.palette):
        log.warning("the palette is not that of %s; --palette.kind pretrained takes it", cfg.train.init_from)
    program = make_program(cfg, palette, mesh)
    model = program.model
    if given is not None:
        check_initial(program.abstract, cfg, given)
    if wandb:
        decide(require_wandb)
    with claim_workdir(workdir, cfg), compilations_kept(workdir):  # from here on files are written
        begun = described(workdir)  # again: a run that held it until now may have gone on meanwhile
        if begun:
            check_continues(begun[0], cfg, data, workdir)
            check_palette_stays(begun[0], palette, workdir)
        decide(lambda: palette.save(workdir / "palette.npy"))
        with contextlib.ExitStack() as stack:
            dog = stack.enter_context(Watchdog(cfg.train.watchdog_s))
            checkpointer = stack.enter_context(Checkpointer(workdir, cfg, palette, data.digests))
            if begun:
                dog.beat("restoring a checkpoint")
                state, meta = restore(checkpointer, program.abstract, begun)
                start, unwritten = meta.step, meta.unwritten
                log.info("continuing from step %d", start)
            else:
                dog.beat("drawing the first weights")
                state = program.init() if given is None else begin_with(program.init(), given)
                given = None  # its memory is not needed any more
                start, unwritten = 0, None
            writers = open_writers(workdir, cfg, start, wandb) if is_first() else []
            for writer in writers:
                stack.callback(writer.close)
            rate = program.schedule
            metrics = LateMetrics(
                writers, cfg.train.log_every, cfg.train.batch_size, lambda step: float(np.asarray(rate(step)))
            )
            if unwritten is not None:
                metrics.unwritten = unwritten
            held_out = subset(data.held_out, cfg.train.eval_images)
            evaluators = measures(
                model, program.objective, palette, cfg, functools.partial(data.eval_batches, held_out), mesh
            )
            if cfg.model.causal:
                drawings = SampleGrids(model, palette, workdir / "samples", cfg.sampler)
            else:
                drawings = Reconstructions(model, palette, workdir / "samples", data.images(data.held_out, 8))
            state = fit(
                state,
                program.train_step,
                data.train_batches(start),
                start=start,
                cfg=cfg.train,
                mesh=mesh,
                checkpointer=checkpointer,
                metrics=metrics,
                evaluators={name: (cfg.train.eval_every, evaluator) for name, evaluator in evaluators.items()}
                | {"samples": (cfg.train.sample_every, drawings)},
                dog=dog,
                on_step=on_step,
            )
        step, found = metrics.evaluated
        if step != cfg.train.steps:  # the run was already finished
            found = run_all(evaluators, state.best_params, start)
        trained = Pretrained(model, state.best_params, palette, cfg, cfg.train.steps, data.digests)
        return report(trained, gather(found, trained, data, held_out), workdir, data)


def restore(checkpointer: Checkpointer, abstract: TrainState, begun: Sequence[Meta]) -> tuple[TrainState, Meta]:
    """The state of the newest checkpoint that is whole. Newer ones are named in the log and moved out of the way.

    Raises:
      DamagedError: none is whole; nothing has been moved.
    """
    for i, meta in enumerate(begun):
        try:
            state = checkpointer.restore(abstract, meta)
        except DamagedError as error:
            if i == len(begun) - 1:
                raise
            log.warning("%s", error)
        else:
            checkpointer.set_aside_after(meta.step)
            return state, meta
    raise AssertionError("unreachable")


def open_writers(workdir: Path, cfg: Config, start: int, wandb: bool) -> list[Writer]:
    """Where the numbers of a run go that goes on after step `start`."""
    writers: list[Writer] = [JsonlWriter(workdir, start), TensorBoardWriter(workdir, start)]
    return [*writers, WandbWriter(workdir, cfg)] if wandb else writers


def check_continues(begun: Meta, cfg: Config, data: Data, workdir: Path) -> None:
    """Raises InputError when the newest checkpoint is beyond the run's end, of other images, or of no run at all."""
    if not begun.data:
        raise InputError(
            f"workdir {workdir}: holds weights brought from elsewhere, not a run; begin with them in another --workdir "
            f"by --train.init-from {workdir}"
        )
    if begun.step > cfg.train.steps:
        raise InputError(
            f"train.steps: {workdir} has a checkpoint at step {begun.step}, beyond {cfg.train.steps} steps"
        )
    for half, source in (("train", data.train), ("held_out", data.held_out)):
        if begun.data[half] != source.digest:
            raise InputError(
                f"data.source: {cfg.data.source} no longer holds the images that {workdir} began with ({half}); bring "
                "them back, or begin anew in another --workdir"
            )


def check_palette_stays(begun: Meta, palette: Palette, workdir: Path) -> None:
    """Raises InputError when the palette is another one than the newest checkpoint's."""
    if not (begun.palette and palette.same_as(begun.palette)):
        raise InputError(f"workdir {workdir}: palette.npy is not the one the run began with; put the old one back")


def report(found: Pretrained, figures: Figures, workdir: Path, data: Data) -> Report:
    """Writes loss.png, and samples.png and completions.png, or of a BERT model reconstructions.png."""
    cfg, model, params, palette = found.config, found.model, found.params, found.colors
    log.info("drawing")
    images = data.images(data.held_out, 8)
    pictures = []
    if cfg.model.causal:
        pictures += [workdir / "samples.png", workdir / "completions.png"]
        write_samples(pictures[0], model, params, palette, 64, cfg.sampler, cfg.seed)
        given = top_rows(data.size)
        write_completions(pictures[1], model, params, palette, images, given, 5, cfg.sampler, cfg.seed)
    else:
        pictures += [workdir / "reconstructions.png"]
        write_reconstructions(pictures[0], model, params, palette, images, cfg.seed)
    pictures.append(workdir / "loss.png")
    levels = {name: nats for name, nats in figures.nats.items() if name != "model"}
    decide(lambda: loss_curves(workdir / METRICS, pictures[-1], levels, figures.metric))
    return Report(cfg.train.steps, figures, tuple(pictures))
