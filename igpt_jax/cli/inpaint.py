"""igpt inpaint: any hole of a picture, filled several times."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from igpt_jax.cli.common import Flag
from igpt_jax.cli.draw import PictureCommand, by_size, check_size, load_images, load_mask
from igpt_jax.cli.output import Result
from igpt_jax.errors import InputError

if TYPE_CHECKING:
    from igpt_jax.config import Config
    from igpt_jax.pretrained import Pretrained

SHOWN_DRAWS = 4
"""Draws of each picture in a .png of all of them."""


@dataclass(frozen=True, kw_only=True)
class Inpaint(PictureCommand):
    """Fill holes of pictures of any size, several times; everything else stays as it is, byte for byte.

    Pictures larger than the model's grid keep their resolution: overlapping windows around the hole are filled one
    after another.
    """

    task = "inpaint"
    file_name = "inpainted-seed{}.png"
    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Picture files, not smaller than the model's grid."""
    mask: Path | None = None
    """A picture of the same size: light where the hole is, dark elsewhere."""
    box: tuple[int, int, int, int] | None = None
    """Y X H W: the hole's top row, left column, rows and columns."""
    brush: int | None = None
    """Seed of a hole made of brush strokes, to try a model with."""
    fit: Flag = False
    """Bring the pictures, with their holes, to the model's grid first, as in training."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """For a class-conditional model: name or number of the pictures' class."""
    out: Path | None = None
    """.png: hole, draws, mean, deviation and picture; a new directory: mean, deviation and draws as PNGs of full size.
    By default inpainted-seed<seed>.png in the workdir."""

    def check(self) -> None:
        super().check()
        if [self.mask, self.box, self.brush].count(None) != 2:
            raise InputError(
                "inpaint: say where the hole is, by one of --mask MASK.png, --box Y X H W and --brush SEED"
            )
        if self.brush is not None and not 0 <= self.brush < 2**32:
            raise InputError(f"--brush {self.brush}: a seed is a number from 0 to {2**32 - 1}")

    def draw(self, weights: Pretrained, given: list[tuple[np.ndarray, np.ndarray]]) -> Result:
        from igpt_jax.pretrained import class_index
        from igpt_jax.sampling.checks import pick_method
        from igpt_jax.sampling.inpaint import inpaint

        class_id = None if self.class_name is None else class_index(weights, self.class_name)
        model = self.request(weights, None if class_id is None else np.array([class_id]))
        options = {"n": self.n, "sampler": self.sampler, "classes": class_id, "draft": weights.draft}
        fill = functools.partial(inpaint, *model, **options)
        images, known = [image for image, _ in given], [known for _, known in given]
        files, rows = [], []
        for image, result in zip(images, by_size(fill, images, known), strict=True):
            both = {"mean": result.mean, "deviation": shade(result.deviation)}
            files.append(both | {f"draw{j}": draw for j, draw in enumerate(result.draws)})
            rows.append({"hole": image, "draw": result.draws[:SHOWN_DRAWS], **both, "picture": image})
        settings = {"method": pick_method(weights.config.model, self.sampler.method)}
        return self.result(files, rows, known, settings=settings)

    def read(self, cfg: Config) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pictures uint8 [y, x, C], and bool [y, x], True where they are known."""
        from igpt_jax.datasets import preprocess_for_eval, reached_by
        from igpt_jax.sampling.checks import pick_method

        pick_method(cfg.model, self.sampler.method)
        mask, pairs = None if self.mask is None else load_mask(self.mask), []
        for path, image in zip(self.images, load_images(cfg, self.images), strict=True):
            hole = self.hole((image.shape[0], image.shape[1]), mask, path)
            if self.fit:
                image, hole = preprocess_for_eval(cfg, [image])[0], reached_by(cfg, hole)
            check_size(cfg, path, image)
            if not hole.any():
                raise InputError(f"image {path}: nothing of it is unknown; paint the hole of the mask white")
            if hole.all():
                raise InputError(f"image {path}: all of it is unknown; igpt sample draws new pictures")
            pairs.append((image, ~hole))
        return pairs

    def hole(self, size: tuple[int, int], mask: np.ndarray | None, path: Path) -> np.ndarray:
        """bool [y, x], True inside the hole."""
        if mask is not None:
            if mask.shape != size:
                sizes = f"{mask.shape[1]} x {mask.shape[0]} and {size[1]} x {size[0]} pixels"
                raise InputError(
                    f"--mask {self.mask}: has another size than {path} ({sizes}); make it from the picture"
                )
            return mask
        if self.box is not None:
            top, left, height, width = self.box
            inside = top >= 0 and left >= 0 and top + height <= size[0] and left + width <= size[1]
            if not inside or height < 1 or width < 1:
                box = " ".join(map(str, self.box))
                raise InputError(
                    f"--box {box}: Y X H W is not inside {path}, which has {size[0]} rows and {size[1]} columns"
                )
            hole = np.zeros(size, bool)
            hole[top : top + height, left : left + width] = True
            return hole
        import jax

        from igpt_jax.holes import brush

        assert self.brush is not None
        return np.asarray(brush(jax.random.key(self.brush), size))


def shade(deviation: np.ndarray) -> np.ndarray:
    """A standard deviation [y, x] in 0..255 as grey, uint8 [y, x, 1]: black for none, white for 128 and more."""
    return np.clip(np.rint(2 * deviation), 0, 255).astype(np.uint8)[..., None]
