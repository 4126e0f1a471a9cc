"""Both halves of a run's data: opened, preprocessed to the model's grid, and cut to this process's share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jax.sharding import Mesh

from igpt_jax import progress
from igpt_jax.config import Config
from igpt_jax.data.degrade import make_degrade
from igpt_jax.data.pipeline import Batch, eval_batches, train_batches
from igpt_jax.data.sources import absolute_source, open_source
from igpt_jax.data.sources.base import Joined, Source, Split, Subset, check_source, split_validation
from igpt_jax.data.transforms import make_preprocess
from igpt_jax.errors import InputError
from igpt_jax.parallel.mesh import batch_ways, local_rows, make_mesh
from igpt_jax.parallel.processes import raise_on_all, require_same


@dataclass(frozen=True)
class Data:
    """Both halves of the data."""

    train: Source
    """Without the validation images."""
    held_out: Source
    cfg: Config
    mesh: Mesh
    """Decides which rows of batches this process reads."""
    validation: Source | None = None
    """Training images that are set aside (data.validation)."""

    @property
    def digests(self) -> dict[str, str]:
        """Of both halves, and the number of images."""
        images = str(len(self.train) + len(self.held_out) + len(self.validation or ()))
        return {"train": self.train.digest, "held_out": self.held_out.digest, "images": images}

    @property
    def size(self) -> tuple[int, int]:
        return picture_size(self.cfg)

    def train_batches(self, start: int) -> Iterator[Batch]:
        """This process's rows of the global batches `start`, `start` + 1, ..."""
        cfg = self.cfg
        return train_batches(
            self.train,
            make_preprocess(cfg.data, self.size, train=True),
            degrade=make_degrade(cfg.data.degrade, train=True),
            batch_size=cfg.data.batch_size,
            seed=cfg.seed,
            start_step=start,
            rows=local_rows(self.mesh, cfg.data.batch_size),
            workers=cfg.compute.workers,
        )

    def eval_batches(self, source: Source) -> Iterator[Batch]:
        """Every image of a source once, without augmentation."""
        ways = batch_ways(self.mesh)
        batch_size = -(-self.cfg.train.eval_batch_size // ways) * ways  # the additional rows are padding
        return eval_batches(
            source,
            make_preprocess(self.cfg.data, self.size, train=False),
            degrade=make_degrade(self.cfg.data.degrade, train=False),
            batch_size=batch_size,
            rows=local_rows(self.mesh, batch_size),
        )

    def images(self, source: Source, n: int) -> np.ndarray:
        """At most n images or clips, spread evenly over a source, as evaluation sees them: uint8 [n, *grid, C]."""
        chosen = subset(source, n)
        records = (chosen.read(i, None) for i in range(len(chosen)))
        tracked = progress.track(records, "reading images", len(chosen))
        return preprocess_for_eval(self.cfg, (record["image"] for record in tracked))

    def degraded(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [n, Y, X, C] with the degradation that evaluation gives them, of the same shape."""
        degrade, unused = make_degrade(self.cfg.data.degrade, train=False), np.random.default_rng(0)
        if degrade is None:
            raise InputError("data.degrade: is empty, so there is nothing to restore; gaussian:0.1 for example")
        return np.stack([degrade(image, unused) for image in images])


def preprocess_for_eval(cfg: Config, images: Iterable[np.ndarray]) -> np.ndarray:
    """Images uint8 [y, x, C] of any size, or clips [l, y, x, C], brought to the rows and columns of the model's grid
    without augmentation: uint8 [n, Y, X, C] or [n, l, Y, X, C]."""
    preprocess = make_preprocess(cfg.data, picture_size(cfg), train=False)
    unused = np.random.default_rng(0)
    return np.stack([preprocess(image, unused) for image in images])


def reached_by(cfg: Config, hole: np.ndarray) -> np.ndarray:
    """bool [Y, X]: the pixels of the model's grid that pixels of a hole, bool [y, x], are part of.

    Those are where another colour in the hole can change a picture that is brought to the grid. Of `data.denoise` and
    `data.enhance`, which spread a colour further, nothing is counted.
    """
    geometry = make_preprocess(replace(cfg.data, denoise="none", enhance="none"), picture_size(cfg), train=False)
    weights = geometry(hole.astype(np.float32)[..., None], np.random.default_rng(0))  # Pillow resizes floats unrounded
    return weights[..., 0] != 0


def picture_size(cfg: Config) -> tuple[int, int]:
    """Rows and columns of the model's grid; InputError if it is neither one of pictures nor of clips."""
    if len(cfg.model.grid) < 2:
        raise InputError(f"model.grid: {cfg.model.grid} is not rows and columns, which pictures need")
    return cfg.model.grid[-2], cfg.model.grid[-1]


def check_frames(cfg: Config, source: Source) -> None:
    """Raises InputError if a model of clips gets pictures, or clips of another number of frames."""
    image, (frames, *_) = source.read(0, None)["image"], cfg.model.grid
    if image.ndim != 4 or len(image) != frames:
        what = "pictures" if image.ndim == 3 else f"clips of {len(image)} frames"
        grid = f"model.grid {cfg.model.grid} is one of clips of {frames} frames"
        raise InputError(f"data.source: {source.name} holds {what}, but {grid}")


def with_absolute_source(cfg: Config) -> Config:
    """The same configuration, with a `data.source` that means the same from every directory."""
    return replace(cfg, data=replace(cfg.data, source=absolute_source(cfg.data.source)))


def open_data(
    cfg: Config, mesh: Mesh | None = None, source: Mapping[Split, Source] | None = None, whole: bool = False
) -> Data:
    """Both halves of the data of a configuration, the same on all processes; InputError where they see different ones.

    Args:
      source: the halves `train` and `eval` as objects, instead of what data.source names.
      whole: both halves are all images of both, and none are set aside.
    """
    with raise_on_all():
        picture_size(cfg)
        make_degrade(cfg.data.degrade, train=True)  # names a bad spec
        frames = cfg.model.n_frame if len(cfg.model.grid) == 3 else None
        mesh = make_mesh(cfg.mesh) if mesh is None else mesh
        if source is not None:
            source = {half: check_source(source[half], half).with_frames(frames) for half in ("train", "eval")}
            if whole:
                source = dict.fromkeys(("train", "eval"), Joined(source["train"], source["eval"]))
        elif whole:
            source = dict.fromkeys(("train", "eval"), open_source(cfg.data, "all", frames))
        else:
            source = {half: open_source(cfg.data, half, frames) for half in ("train", "eval")}
        if frames is not None:
            check_frames(cfg, source["train"])
        train, validation = source["train"], None
        if cfg.data.validation and not whole:
            train, validation = split_validation(train, cfg.data.validation)
        data = Data(train, source["eval"], cfg, mesh, validation)
    require_same(f"data.source {cfg.data.source}", str(data.digests))
    return data


def check_classes(cfg: Config, data: Data) -> None:
    """Raises InputError if a model that learns classes gets images without classes, or with more than it has."""
    for key, classes in (("clf_classes", cfg.model.clf_classes), ("cond_classes", cfg.model.cond_classes)):
        count = len(data.train.class_names)
        if classes and not 0 < count <= classes:
            raise InputError(f"model.{key}: {classes}, but {cfg.data.source} has {count or 'no'} classes")


def subset(source: Source, most: int | None) -> Source:
    """At most `most` records, spread evenly over the source; None for all."""
    if most is None or most >= len(source):
        return source
    return Subset(source, spread(len(source), most))


def spread(n: int, most: int) -> np.ndarray:
    """int [most]: numbers below n, spread evenly."""
    return np.linspace(0, n - 1, most).round().astype(int)
