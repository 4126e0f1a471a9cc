"""From a configuration to a finished run: opens the data, builds what the loop needs, trains, writes the report.

An experiment file is a Python file with a function `config(tiny=False) -> Config`. The parts put together here do
not know each other.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import Config, InputError
from igpt_jax.data.pipeline import Batch, eval_batches, train_batches
from igpt_jax.data.preprocess import fit as fit_to
from igpt_jax.data.preprocess import load_image, make_preprocess
from igpt_jax.data.sources import Record, Source, open_source
from igpt_jax.evaluation.likelihood import Likelihood, histogram_nats, uniform_nats
from igpt_jax.evaluation.pictures import SampleGrids, write_completions, write_samples
from igpt_jax.model.decoder import AXES, ImageGPT
from igpt_jax.objectives import OBJECTIVES
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import batch_ways, make_mesh, shardings
from igpt_jax.training.checkpoint import Checkpointer, Pretrained, check_workdir, claim_workdir
from igpt_jax.training.loop import Evaluator, LateMetrics, fit
from igpt_jax.training.metrics import METRICS, JsonlWriter, TensorBoardWriter, WandbWriter, Writer
from igpt_jax.training.optimizer import make_optimizer, make_schedule
from igpt_jax.training.state import TrainState, make_init, make_train_step
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
    pictures: tuple[Path, ...]


def load_config(path: str | Path, tiny: bool = False) -> Config:
    """The configuration that an experiment file describes.

    Raises:
      InputError: no such file, it does not run, or has no `config`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"experiment {path}: no such file; experiments/ holds some")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"experiment {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        cfg = module.config(tiny=tiny)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"experiment {path}: {type(error).__name__}: {error}") from error
    if not isinstance(cfg, Config):
        raise InputError(f"experiment {path}: config() gave {type(cfg).__name__}, not igpt_jax.config.Config")
    return cfg


@dataclass(frozen=True)
class Data:
    """Both halves of the data, preprocessed and cut to this process's share."""

    train: Source
    held_out: Source
    cfg: Config

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of every image."""
        return picture_size(self.cfg)

    def train_batches(self, start: int) -> Iterator[Batch]:
        """Slices of the global batches `start`, `start` + 1, ..."""
        cfg = self.cfg
        return train_batches(
            self.train,
            make_preprocess(cfg.data, self.size, train=True),
            batch_size=cfg.train.batch_size,
            seed=cfg.seed,
            start_step=start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=cfg.data.workers,
        )

    def eval_batches(self, source: Source) -> Iterator[Batch]:
        """Every image of a source once, without augmentation."""
        return eval_batches(
            source,
            make_preprocess(self.cfg.data, self.size, train=False),
            batch_size=self.cfg.train.eval_batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def images(self, source: Source, n: int) -> np.ndarray:
        """At most n images, spread evenly over a source, as evaluation sees them: uint8 [n, Y, X, C]."""
        preprocess = make_preprocess(self.cfg.data, self.size, train=False)
        unused = np.random.default_rng(0)
        chosen = subset(source, n)
        return np.stack([preprocess(chosen[i]["image"], unused) for i in range(len(chosen))])


def picture_size(cfg: Config) -> tuple[int, int]:
    """Rows and columns of the model's grid; InputError when it is not one of pictures."""
    if len(cfg.model.grid) != 2:
        raise InputError(f"model.grid: {cfg.model.grid} is not rows and columns, which pictures need")
    rows, columns = cfg.model.grid
    return rows, columns


def open_data(cfg: Config) -> Data:
    """Raises InputError when there is no such data, or the grid is not one of pictures."""
    picture_size(cfg)
    return Data(open_source(cfg.data, "train"), open_source(cfg.data, "eval"), cfg)


def make_palette(cfg: Config, data: Data) -> Palette:
    """The palette a configuration asks for, of model.vocab_size colours.

    Raises:
      InputError: the file's palette does not fit the model or the images, or the images have too few colours.
    """
    v = cfg.model.vocab_size
    if cfg.palette.kind == "levels":
        return Palette.levels(v)
    if cfg.palette.kind == "kmeans":
        pixels = data.images(data.train, cfg.palette.fit_images).reshape(-1, cfg.data.channels)
        return Palette.fit(pixels, v, cfg.seed)
    assert cfg.palette.path is not None
    palette = Palette.load(cfg.palette.path)
    if (palette.size, palette.channels) != (v, cfg.data.channels):
        raise InputError(
            f"palette {cfg.palette.path}: {palette.size} colours of {palette.channels} channels; model.vocab_size is "
            f"{v} and data.channels {cfg.data.channels}"
        )
    return palette


def check_fits(cfg: Config, mesh: Mesh) -> None:
    """Raises InputError when batches do not split evenly over the mesh; nothing is allocated before."""
    ways = batch_ways(mesh)
    for key, size in {
        "train.batch_size": cfg.train.batch_size // cfg.train.microbatches,
        "train.eval_batch_size": cfg.train.eval_batch_size,
    }.items():
        if size % ways:
            raise InputError(f"{key}: {size} images at once do not split over {ways} devices (mesh data x fsdp)")


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
    data = open_data(cfg)
    check_workdir(workdir, cfg)
    palette_file = workdir / "palette.npy"
    palette = Palette.load(palette_file) if palette_file.exists() else make_palette(cfg, data)
    with claim_workdir(workdir, cfg):  # from here on files are written
        palette.save(palette_file)
        return _train(cfg, workdir, mesh, data, palette, wandb, on_step)


def _train(
    cfg: Config,
    workdir: Path,
    mesh: Mesh,
    data: Data,
    palette: Palette,
    wandb: bool,
    on_step: Callable[[int, LateMetrics], None],
) -> Report:
    model = ImageGPT(cfg.model)
    objective = OBJECTIVES[cfg.objective](model, palette)
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    init, abstract = make_init(model, tx, cfg.seed, cfg.optim.ema_decay is not None, mesh)
    train_step = make_train_step(
        objective,
        tx,
        seed=cfg.seed,
        microbatches=cfg.train.microbatches,
        ema_decay=cfg.optim.ema_decay,
        abstract=abstract,
        mesh=mesh,
    )
    checkpointer = Checkpointer(workdir, cfg, palette)
    start = checkpointer.latest or 0
    if start > cfg.train.steps:
        raise InputError(f"train.steps: {workdir} has a checkpoint at step {start}, beyond {cfg.train.steps} steps")
    state: TrainState = checkpointer.restore(abstract, start) if start else init()
    if start:
        log.info("continuing from step %d", start)

    held_out = subset(data.held_out, cfg.train.eval_images)
    likelihood = Likelihood(objective, functools.partial(data.eval_batches, held_out), mesh, cfg.seed)
    grids = SampleGrids(model, palette, workdir / "samples", cfg.sampler)
    evaluators: dict[str, tuple[int, Evaluator]] = {
        "eval": (cfg.train.eval_every, likelihood),
        "samples": (cfg.train.sample_every, grids),
    }
    writers: list[Writer] = [JsonlWriter(workdir, start), TensorBoardWriter(workdir, start)]
    if wandb:
        writers.append(WandbWriter(workdir, cfg))
    schedule = make_schedule(cfg.optim, cfg.train.steps)
    metrics = LateMetrics(
        writers, cfg.train.log_every, cfg.train.batch_size, lambda step: float(np.asarray(schedule(step)))
    )
    try:
        state = fit(
            state,
            train_step,
            data.train_batches(start),
            start=start,
            cfg=cfg.train,
            mesh=mesh,
            checkpointer=checkpointer,
            metrics=metrics,
            evaluators=evaluators,
            on_step=on_step,
        )
    finally:
        checkpointer.close()
        for writer in writers:
            writer.close()
    step, found = metrics.evaluated
    if step != cfg.train.steps:  # the run was already finished
        found = {f"eval/{name}": value for name, value in likelihood.run(state.best_params, start)}
    trained = Pretrained(model, state.best_params, palette, cfg, cfg.train.steps)
    figures = {"model": found["eval/nats_per_token"], **baselines(palette, data, held_out)}
    return report(trained, figures, workdir, data)


def baselines(palette: Palette, data: Data, held_out: Source) -> dict[str, float]:
    """Nats per token on held-out images of two models that need no training to speak of."""
    counted = subset(data.train, BASELINE_IMAGES)
    return {
        "per-pixel histograms": histogram_nats(
            functools.partial(data.eval_batches, counted), functools.partial(data.eval_batches, held_out), palette
        ),
        "uniform": uniform_nats(palette.size),
    }


def held_out_figures(found: Pretrained) -> dict[str, float]:
    """Nats per token (of quantised pixels) of a trained model and the baselines, on all held-out images."""
    cfg = found.config
    mesh, data = make_mesh(cfg.mesh), open_data(cfg)
    objective = OBJECTIVES[cfg.objective](found.model, found.palette)
    likelihood = Likelihood(objective, functools.partial(data.eval_batches, data.held_out), mesh, cfg.seed)
    params = jax.device_put(found.params, shardings(found.params, mesh, AXES))
    nats = dict(likelihood.run(params, found.step))["nats_per_token"]
    return {"model": nats, **baselines(found.palette, data, data.held_out)}


def report(found: Pretrained, figures: Mapping[str, float], workdir: Path, data: Data) -> Report:
    """Writes samples.png, completions.png and loss.png."""
    cfg, model, params, palette = found.config, found.model, found.params, found.palette
    log.info("drawing samples and completions")
    names = ("samples.png", "completions.png", "loss.png")
    samples, completions, loss = (workdir / name for name in names)
    write_samples(samples, model, params, palette, 64, cfg.sampler, cfg.seed)
    images = data.images(data.held_out, 8)
    write_completions(completions, model, params, palette, images, top_rows(data.size), 5, cfg.sampler, cfg.seed)
    loss_curves(workdir / METRICS, loss, {name: nats for name, nats in figures.items() if name != "model"})
    return Report(found.step, figures, (samples, completions, loss))


def top_rows(size: tuple[int, int], rows: int | None = None) -> np.ndarray:
    """bool [Y, X], True in the first `rows` rows; by default in the top half."""
    return np.broadcast_to(np.arange(size[0])[:, None] < (size[0] // 2 if rows is None else rows), size).copy()


def read_images(cfg: Config, paths: Sequence[Path]) -> np.ndarray:
    """Picture files, brought to a model's grid as its evaluation images are: uint8 [B, Y, X, C].

    Raises:
      InputError: one cannot be read.
    """
    preprocess = make_preprocess(cfg.data, picture_size(cfg), train=False)
    unused = np.random.default_rng(0)
    return np.stack([preprocess(load_image(path, cfg.data.channels), unused) for path in paths])


def read_mask(cfg: Config, path: Path) -> np.ndarray:
    """bool [Y, X], True (given) where a picture is dark, False (to be drawn) where it is light."""
    return fit_to(load_image(path, 1), picture_size(cfg))[..., 0] < 128


@dataclass(frozen=True)
class _Subset:
    source: Source
    indices: np.ndarray

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Record:
        return self.source[int(self.indices[i])]


def subset(source: Source, most: int | None) -> Source:
    """At most that many records, spread evenly over the source; None for all."""
    if most is None or most >= len(source):
        return source
    return _Subset(source, np.linspace(0, len(source) - 1, most).round().astype(int))
