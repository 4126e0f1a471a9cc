"""What a run reads, for its configuration: images of both halves of the data at the model's grid, and the palette.

The sources, the preprocessing and the order of batches are `igpt_jax.data`'s; here they are put together and cut to
this process's share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import Config, InputError
from igpt_jax.data.pipeline import Batch, eval_batches, train_batches
from igpt_jax.data.preprocess import fit as fit_to
from igpt_jax.data.preprocess import load_image, make_preprocess
from igpt_jax.data.sources import Record, Source, open_source
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import batch_ways, local_rows, make_mesh
from igpt_jax.parallel.multihost import require_same, together


@dataclass(frozen=True)
class Data:
    """Both halves of the data, preprocessed and cut to this process's share."""

    train: Source
    held_out: Source
    cfg: Config
    mesh: Mesh
    """Where batches will lie, which says what of them this process reads."""

    @property
    def digests(self) -> dict[str, str]:
        """Of both halves."""
        return {"train": self.train.digest, "held_out": self.held_out.digest}

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
            rows=local_rows(self.mesh, cfg.train.batch_size),
            workers=cfg.data.workers,
        )

    def eval_batches(self, source: Source) -> Iterator[Batch]:
        """Every image of a source once, without augmentation."""
        ways = batch_ways(self.mesh)
        batch_size = -(-self.cfg.train.eval_batch_size // ways) * ways  # what is added is padding
        return eval_batches(
            source,
            make_preprocess(self.cfg.data, self.size, train=False),
            batch_size=batch_size,
            rows=local_rows(self.mesh, batch_size),
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


def open_data(cfg: Config, mesh: Mesh | None = None) -> Data:
    """Both halves of the data of a configuration, for its own mesh or another; the same on all processes.

    Raises:
      InputError: there is no such data, the processes find other images, the grid is not one of pictures, or the mesh
        does not fit the devices.
    """
    with together():
        picture_size(cfg)
        mesh = make_mesh(cfg.mesh) if mesh is None else mesh
        data = Data(open_source(cfg.data, "train"), open_source(cfg.data, "eval"), cfg, mesh)
    require_same(f"data.source {cfg.data.source}", str(data.digests))
    return data


def check_classes(cfg: Config, data: Data) -> None:
    """Raises InputError when a model that learns classes is given images without, or with more than it has."""
    for key, classes in (("clf_classes", cfg.model.clf_classes), ("cond_classes", cfg.model.cond_classes)):
        found = len(data.train.class_names)
        if classes and not 0 < found <= classes:
            raise InputError(f"model.{key}: {classes}, but {cfg.data.source} has {found or 'no'} classes")


def make_palette(cfg: Config, data: Data, given: Palette | None = None) -> Palette:
    """The palette a configuration asks for, of model.vocab_size colours; `given` is that of train.init_from.

    Raises:
      InputError: the file's palette does not fit the model or the images, or the images have too few colours.
    """
    v = cfg.model.vocab_size
    if cfg.palette.kind == "levels":
        return Palette.levels(v)
    if cfg.palette.kind == "pretrained":
        if given is None:
            raise InputError(f"palette.kind: {cfg.train.init_from} holds no palette; name one with palette.path")
        return check_palette(cfg, given, str(cfg.train.init_from))
    if cfg.palette.kind == "kmeans":
        pixels = data.images(data.train, cfg.palette.fit_images).reshape(-1, cfg.data.channels)
        return Palette.fit(pixels, v, cfg.seed)
    assert cfg.palette.path is not None
    return load_palette(cfg, cfg.palette.path)


def load_palette(cfg: Config, path: str | Path) -> Palette:
    """A palette file; InputError when it does not fit the model or the images."""
    return check_palette(cfg, Palette.load(path), path)


def check_palette(cfg: Config, palette: Palette, origin: str | Path) -> Palette:
    """The palette; InputError when it does not fit the model or the images."""
    wanted = (cfg.model.vocab_size, cfg.data.channels)
    if (palette.size, palette.channels) != wanted:
        raise InputError(
            f"palette {origin}: {palette.size} colours of {palette.channels} channels; model.vocab_size is {wanted[0]} "
            f"and data.channels {wanted[1]}"
        )
    return palette


def find_palette(cfg: Config, data: Data, workdir: Path, given: Palette | None = None) -> Palette:
    """The workdir's palette where there is one, else as `make_palette`."""
    if not (workdir / "palette.npy").exists():
        return make_palette(cfg, data, given)
    return load_palette(cfg, workdir / "palette.npy")


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

    @property
    def digest(self) -> str:
        return f"{len(self)} of {self.source.digest}"

    def __getitem__(self, i: int) -> Record:
        return self.source[int(self.indices[i])]


def subset(source: Source, most: int | None) -> Source:
    """At most that many records, spread evenly over the source; None for all."""
    if most is None or most >= len(source):
        return source
    return _Subset(source, np.linspace(0, len(source) - 1, most).round().astype(int))
