"""From a configuration to a finished run: opens the data, builds what the loop needs, trains, writes the report.

An experiment file is a Python file with a function `config(tiny=False) -> Config`. The parts put together here do
not know each other.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import Config, InputError, MeshConfig
from igpt_jax.config_json import from_json, to_json
from igpt_jax.data.sources import Source
from igpt_jax.evaluation.likelihood import Likelihood, histogram_nats, uniform_nats
from igpt_jax.evaluation.pictures import SampleGrids, write_completions, write_samples
from igpt_jax.inputs import Data, find_palette, open_data, subset, top_rows
from igpt_jax.model.decoder import AXES, ImageGPT
from igpt_jax.objectives import OBJECTIVES
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import batch_ways, make_mesh, shardings
from igpt_jax.training.checkpoint import Checkpointer, Meta, Pretrained, check_workdir, claim_workdir, newest
from igpt_jax.training.loop import LateMetrics, fit
from igpt_jax.training.metrics import METRICS, JsonlWriter, TensorBoardWriter, WandbWriter, Writer, require_wandb
from igpt_jax.training.optimizer import make_optimizer, make_schedule
from igpt_jax.training.state import make_init, make_train_step
from igpt_jax.viz import loss_curves

log = logging.getLogger(__name__)

BASELINE_IMAGES = 10_000
"""Training images that the histogram baseline counts."""


@dataclass(frozen=True)
class Report:
    """What a finished run shows."""

    step: int
    figures: Mapping[str, float]
    """Held-out nats per token: of the model and of the baselines."""
    images: int
    """How many held-out images that was measured on."""
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


def check_fits(cfg: Config, mesh: Mesh) -> None:
    """Raises InputError when batches do not split evenly over the mesh; nothing is allocated before."""
    size, ways = cfg.train.batch_size // cfg.train.microbatches, batch_ways(mesh)
    if size % ways:
        raise InputError(f"train.batch_size: {size} images at once do not split over {ways} devices (mesh data x fsdp)")


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
    mesh = make_mesh(cfg.mesh)
    check_fits(cfg, mesh)
    data = open_data(cfg, batch_ways(mesh))
    check_workdir(workdir, cfg)
    begun = newest(workdir)
    if begun is not None:
        check_continues(begun, cfg, data, workdir)
    palette = find_palette(cfg, data, workdir)
    if begun is not None and not palette.same_as(begun.palette):
        raise InputError(f"workdir {workdir}: palette.npy is not the one the run began with; put the old one back")
    model = ImageGPT(cfg.model)
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    init, abstract = make_init(model, tx, cfg.seed, cfg.optim.ema_decay is not None, mesh)
    if wandb:
        require_wandb()
    with claim_workdir(workdir, cfg):  # from here on files are written
        palette.save(workdir / "palette.npy")
        digests = {"train": data.train.digest, "held_out": data.held_out.digest}
        with contextlib.ExitStack() as stack:
            checkpointer = Checkpointer(workdir, cfg, palette, digests)
            stack.callback(checkpointer.close)
            start = begun.step if begun else 0
            writers: list[Writer] = [JsonlWriter(workdir, start), TensorBoardWriter(workdir, start)]
            if wandb:
                writers.append(WandbWriter(workdir, cfg))
            for writer in writers:
                stack.callback(writer.close)
            schedule = make_schedule(cfg.optim, cfg.train.steps)
            metrics = LateMetrics(
                writers, cfg.train.log_every, cfg.train.batch_size, lambda step: float(np.asarray(schedule(step)))
            )
            if begun is None:
                state = init()
            else:
                log.info("continuing from step %d", start)
                metrics.unwritten = begun.unwritten
                state = checkpointer.restore(abstract, start)
            objective = OBJECTIVES[cfg.objective](model, palette)
            train_step = make_train_step(
                objective,
                tx,
                seed=cfg.seed,
                microbatches=cfg.train.microbatches,
                ema_decay=cfg.optim.ema_decay,
                abstract=abstract,
                mesh=mesh,
            )
            held_out = subset(data.held_out, cfg.train.eval_images)
            likelihood = Likelihood(objective, functools.partial(data.eval_batches, held_out), mesh, cfg.seed)
            grids = SampleGrids(model, palette, workdir / "samples", cfg.sampler)
            state = fit(
                state,
                train_step,
                data.train_batches(start),
                start=start,
                cfg=cfg.train,
                mesh=mesh,
                checkpointer=checkpointer,
                metrics=metrics,
                evaluators={"eval": (cfg.train.eval_every, likelihood), "samples": (cfg.train.sample_every, grids)},
                on_step=on_step,
            )
        step, found = metrics.evaluated
        if step != cfg.train.steps:  # the run was already finished
            found = {f"eval/{name}": value for name, value in likelihood.run(state.best_params, start)}
        trained = Pretrained(model, state.best_params, palette, cfg, cfg.train.steps)
        figures = {"model": found["eval/nats_per_token"], **baselines(palette, data, held_out)}
        return report(trained, figures, len(held_out), workdir, data)


def check_continues(begun: Meta, cfg: Config, data: Data, workdir: Path) -> None:
    """Raises InputError when the newest checkpoint is beyond the run's end, or was trained on other images."""
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


def baselines(palette: Palette, data: Data, held_out: Source) -> dict[str, float]:
    """Nats per token on held-out images of two models that need no training to speak of."""
    counted = subset(data.train, BASELINE_IMAGES)
    return {
        "per-pixel histograms": histogram_nats(
            functools.partial(data.eval_batches, counted), functools.partial(data.eval_batches, held_out), palette
        ),
        "uniform": uniform_nats(palette.size),
    }


def held_out_figures(found: Pretrained) -> tuple[dict[str, float], int]:
    """Nats per token (of quantised pixels) of a trained model and the baselines, on all held-out images; how many.

    The run's mesh is used where it fits the devices at hand; on others, all of them split the batch.
    """
    cfg = found.config
    try:
        mesh = make_mesh(cfg.mesh)
    except InputError:
        mesh = make_mesh(MeshConfig())
    data = open_data(cfg, batch_ways(mesh))
    objective = OBJECTIVES[cfg.objective](found.model, found.palette)
    likelihood = Likelihood(objective, functools.partial(data.eval_batches, data.held_out), mesh, cfg.seed)
    params = jax.device_put(found.params, shardings(found.params, mesh, AXES))
    nats = dict(likelihood.run(params, found.step))["nats_per_token"]
    return {"model": nats, **baselines(found.palette, data, data.held_out)}, len(data.held_out)


def report(found: Pretrained, figures: Mapping[str, float], images: int, workdir: Path, data: Data) -> Report:
    """Writes samples.png, completions.png and loss.png."""
    cfg, model, params, palette = found.config, found.model, found.params, found.palette
    log.info("drawing samples and completions")
    names = ("samples.png", "completions.png", "loss.png")
    samples, completions, loss = (workdir / name for name in names)
    write_samples(samples, model, params, palette, 64, cfg.sampler, cfg.seed)
    halves = data.images(data.held_out, 8)
    write_completions(completions, model, params, palette, halves, top_rows(data.size), 5, cfg.sampler, cfg.seed)
    loss_curves(workdir / METRICS, loss, {name: nats for name, nats in figures.items() if name != "model"})
    return Report(found.step, figures, images, (samples, completions, loss))
