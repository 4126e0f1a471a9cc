"""What all commands that draw have in common: pictures in, one call, one writer out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import tyro

from igpt_jax.cli.common import Inline, JoinedCommand, ModelArgs, check_at_least_one
from igpt_jax.cli.output import Result, check_result_path, write_result
from igpt_jax.config import SamplerConfig, Task
from igpt_jax.errors import InputError
from igpt_jax.files import local_path

if TYPE_CHECKING:
    from igpt_jax.config import Config
    from igpt_jax.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class DrawCommand(JoinedCommand):
    """A command that draws. Sampler options that are left out have the run's own settings, but for the seed."""

    task: ClassVar[Task]
    file_name: ClassVar[str]
    """Of the result in the workdir; {} is the seed."""
    suffixes: ClassVar[tuple[str, ...]] = (".png",)
    """File types it writes, beside a directory."""
    weights: Annotated[ModelArgs, Inline] = field(default_factory=ModelArgs)
    out: Path | None = None
    sampler: Annotated[SamplerConfig, Inline] = field(default_factory=SamplerConfig)

    def defaults(self) -> DrawCommand:
        from igpt_jax.weights.load import inspect

        run = inspect(self.weights.path, step=self.weights.step).config
        needed = {f.name: tyro.MISSING for f in fields(self) if f.default is f.default_factory}  # neither is there
        return type(self)(sampler=replace(run.sampler, seed=0), **needed)

    def check(self) -> None:
        """Raises InputError for options that do not go together."""

    def read(self, cfg: Config) -> Any:
        """What is drawn from: a pytree of arrays."""

    @abstractmethod
    def draw(self, weights: Pretrained, given: Any) -> Result:
        """Draws; `given` is what `read` returned."""

    def run(self) -> None:
        self.check()
        name = self.file_name.format(self.sampler.seed)
        out = check_result_path(self.weights.result_path(self.out, name), self.suffixes)
        from igpt_jax.parallel.processes import raise_on_all, require_same

        weights = self.weights.load()
        with raise_on_all():
            self._check_run(weights.config)
            given = self.read(weights.config)
        require_same("the images", _digest(given))
        result = self.draw(weights, given)
        settings = {"model": self.weights.path, "step": weights.step, **asdict(self.sampler), **result.settings}
        write_result(out, replace(result, settings=settings))
        print(result.shown(out))

    def request(self, weights: Pretrained, classes: np.ndarray | None = None) -> tuple[Any, Any, Any]:
        """Model, parameters and palette, which can draw images of these classes, int [n], None for no class."""
        from igpt_jax.sampling.checks import check_request

        check_request(weights.config.model, self.task, self.sampler, classes, weights.config.class_dropout)
        return weights.model, weights.params, weights.colors

    def _check_run(self, cfg: Config) -> None:
        model, path = cfg.model, self.weights.path
        if self.task == "clips" and model.n_frame < 2:
            raise InputError(f"--model {path}: model.grid {model.grid} is one of pictures, not of clips")
        if self.task != "clips" and len(model.grid) == 3:
            raise InputError(f"--model {path}: draws clips of {model.grid[0]} frames; igpt video draws with it")
        for name in ("method", "particles", "passes") if self.task != "inpaint" else ():
            if getattr(self.sampler, name) != getattr(cfg.sampler, name):
                raise InputError(f"--{name}: is for igpt inpaint; leave it out")


@dataclass(frozen=True, kw_only=True)
class PictureCommand(DrawCommand):
    """A command that draws from picture files."""

    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8
    """Draws of each picture."""

    def check(self) -> None:
        if not self.images:
            raise InputError(f"{type(self).__name__.lower()}: no image named")
        check_at_least_one(n=self.n)

    def result(
        self, files: list[dict[str, np.ndarray]], rows: list[dict[str, np.ndarray]], known: Any = None, **more: Any
    ) -> Result:
        """The result for pictures of several sizes.

        Args, each with an item a picture:
          files: what a directory holds of it: name -> uint8 [y, x, C].
          rows: title -> uint8 [y, x, C] or [n, y, x, C], which stand side by side in a .png.
          known: bool [y, x] where it is known; striped elsewhere.
        """
        from igpt_jax.viz import stacked, strips

        def sheet() -> np.ndarray:
            columns = [[(title, tiles[None]) for title, tiles in row.items()] for row in rows]
            return stacked([strips(row, mask) for row, mask in zip(columns, known or [None] * len(rows), strict=True)])

        names = [f"{i}-{self.images[i].stem}-{part}" for i, parts in enumerate(files) for part in parts]
        return Result([image for parts in files for image in parts.values()], names, sheet, **more)


def load_images(cfg: Config, paths: Sequence[Path], key: str = "image") -> list[np.ndarray]:
    """Picture files as uint8 [y, x, C] each."""
    from igpt_jax.data.reading import load_image

    return [load_image(local_path(path, key), cfg.data.channels) for path in paths]


def load_mask(path: Path) -> np.ndarray:
    """bool [y, x], True where a mask is light: what is to be drawn."""
    from igpt_jax.data.reading import load_image

    return load_image(local_path(path, "--mask"), 1)[..., 0] >= 128


def check_size(cfg: Config, path: Path, image: np.ndarray) -> None:
    """Raises InputError if a picture is smaller than the model's grid."""
    from igpt_jax.datasets import picture_size

    (rows, columns), (y, x) = picture_size(cfg), image.shape[:2]
    if y < rows or x < columns:
        small = f"{x} x {y} pixels, but the model's grid has {columns} x {rows}"
        raise InputError(f"image {path}: {small}; enlarge it, or take --fit")


def by_size(draw: Callable[..., Any], images: Sequence[np.ndarray], *others: Sequence[np.ndarray]) -> list[Any]:
    """What `draw` makes of each picture; those of one size are drawn together, stacked, as are their `others`.

    `draw` returns a named tuple of arrays, one row a picture.
    """
    results: dict[int, Any] = {}
    for shape in dict.fromkeys(image.shape for image in images):
        chosen = [i for i, image in enumerate(images) if image.shape == shape]
        together = draw(*(np.stack([arrays[i] for i in chosen]) for arrays in (images, *others)))
        results |= {i: type(together)(*(part[k] for part in together)) for k, i in enumerate(chosen)}
    return [results[i] for i in range(len(images))]


def _digest(given: Any) -> str:
    import hashlib

    import jax

    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(given))).hexdigest()
