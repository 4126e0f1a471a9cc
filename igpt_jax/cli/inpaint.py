"""igpt inpaint: any hole of a picture, filled several times."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from igpt_jax.cli.common import (
    Flag,
    Inline,
    JoinedCommand,
    ModelArgs,
    SamplerArgs,
    check_class_dropout,
    require_pictures,
)
from igpt_jax.cli.output import Drawn, check_result_path, file_type, write_images
from igpt_jax.errors import InputError
from igpt_jax.files import local_path

if TYPE_CHECKING:
    from igpt_jax.config import Config
    from igpt_jax.sampling.inpaint import Inpainted

SHOWN_DRAWS = 4
"""Draws of each picture in a .png of all of them."""


@dataclass(frozen=True, kw_only=True)
class Inpaint(JoinedCommand):
    """Fill holes of pictures of any size, several times; everything else stays as it is, byte for byte.

    Pictures larger than the model's grid keep their resolution: overlapping windows around the hole are filled one
    after another.
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Picture files, not smaller than the model's grid."""
    weights: Annotated[ModelArgs, Inline] = field(default_factory=ModelArgs)
    mask: Path | None = None
    """A picture of the same size: light where the hole is, dark elsewhere."""
    box: tuple[int, int, int, int] | None = None
    """Y X H W: the hole's top row, left column, rows and columns."""
    brush: int | None = None
    """Seed of a hole made of brush strokes, to try a model with."""
    fit: Flag = False
    """Bring the pictures, with their holes, to the model's grid first, as in training."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8
    """Draws of each picture."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """For a class-conditional model: name or number of the pictures' class."""
    method: str | None = None
    """any_order, smc, clamp, ardm or unmask; by default the best that the model can do."""
    particles: int | None = None
    """For smc: completions that are drawn side by side."""
    passes: int | None = None
    """For ardm and unmask: passes of the model."""
    out: Path | None = None
    """.png: hole, draws, mean, deviation and picture; a new directory: mean, deviation and draws as PNGs of full size.
    By default inpainted-seed<seed>.png in the workdir."""
    sampler: Annotated[SamplerArgs, Inline] = field(default_factory=SamplerArgs)

    def run(self) -> None:
        """Draws and writes."""
        self.check()
        out = check_result_path(self.weights.result_path(self.out, f"inpainted-seed{self.sampler.seed}.png"))
        if file_type(out) not in ("", ".png"):
            raise InputError(f"--out {out}: must end in .png, or be a directory for one PNG a picture")

        from igpt_jax.parallel.processes import raise_on_all, require_same
        from igpt_jax.pretrained import class_index
        from igpt_jax.sampling.inpaint import inpaint, pick_method

        weights = self.weights.load()
        settings = {key: getattr(self, key) for key in ("method", "particles", "passes")}
        chosen = {key: value for key, value in settings.items() if value is not None}
        sampler = replace(self.sampler.over(weights.config.sampler), **chosen)
        with raise_on_all():
            require_pictures(self.weights.path, weights.config.model.grid)
            method = pick_method(weights.config.model, sampler.method)
            pictures = self.read(weights.config)
        require_same("the images", hashlib.sha256(b"".join(a.tobytes() for pair in pictures for a in pair)).hexdigest())
        class_id = None if self.class_name is None else class_index(weights, self.class_name)
        check_class_dropout(weights.config, None if class_id is None else [class_id], sampler.guidance)
        model = (weights.model, weights.params, weights.colors)
        filled = [
            inpaint(*model, image[None], known[None], self.n, sampler=sampler, classes=class_id)
            for image, known in pictures
        ]
        stems = [f"{i}-{path.stem}" for i, path in enumerate(self.images)]
        parts = ("mean", "deviation", *(f"draw{j}" for j in range(self.n)))
        images = [x for f in filled for x in (f.mean[0], shade(f.deviation[0]), *f.draws[0])]
        text = {"model": self.weights.path, "step": weights.step, **asdict(sampler), "method": method}
        names = [f"{stem}-{part}" for stem in stems for part in parts]
        write_images(out, Drawn(images, names, lambda: sheet(pictures, filled), (), text))

    def check(self) -> None:
        """Raises InputError for options that do not go together."""
        if not self.images:
            raise InputError("inpaint: no image named")
        if self.n < 1:
            raise InputError(f"-n {self.n}: must be at least 1")
        if [self.mask, self.box, self.brush].count(None) != 2:
            raise InputError(
                "inpaint: say where the hole is, by one of --mask MASK.png, --box Y X H W and --brush SEED"
            )
        if self.brush is not None and not 0 <= self.brush < 2**32:
            raise InputError(f"--brush {self.brush}: a seed is a number from 0 to {2**32 - 1}")

    def read(self, cfg: Config) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pictures uint8 [y, x, C], and bool [y, x], True where they are known.

        Raises:
          InputError: a file cannot be read; a picture is too small; the mask has another size; the box lies outside; or
            nothing or everything is unknown.
        """
        from igpt_jax.data.reading import load_image
        from igpt_jax.datasets import picture_size, preprocess_for_eval, reached_by

        mask = None if self.mask is None else load_image(local_path(self.mask, "--mask"), 1)
        pairs, (rows, columns) = [], picture_size(cfg)
        for path in self.images:
            image = load_image(local_path(path, "image"), cfg.data.channels)
            hole = self.hole((image.shape[0], image.shape[1]), mask, path)
            if self.fit:
                image, hole = preprocess_for_eval(cfg, [image])[0], reached_by(cfg, hole)
            y, x = image.shape[:2]
            if y < rows or x < columns:
                raise InputError(
                    f"image {path}: {x} x {y} pixels, but the model's grid has {columns} x {rows}; enlarge it, or take "
                    "--fit"
                )
            if not hole.any():
                raise InputError(f"image {path}: nothing of it is unknown; paint the hole of the mask white")
            if hole.all():
                raise InputError(f"image {path}: all of it is unknown; igpt sample draws new pictures")
            pairs.append((image, ~hole))
        return pairs

    def hole(self, size: tuple[int, int], mask: np.ndarray | None, path: Path) -> np.ndarray:
        """bool [y, x], True inside the hole."""
        if mask is not None:
            if mask.shape[:2] != size:
                sizes = f"{mask.shape[1]} x {mask.shape[0]} and {size[1]} x {size[0]} pixels"
                raise InputError(
                    f"--mask {self.mask}: has another size than {path} ({sizes}); make it from the picture"
                )
            return mask[..., 0] >= 128
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


def sheet(pictures: list[tuple[np.ndarray, np.ndarray]], filled: list[Inpainted]) -> np.ndarray:
    """Hole, some draws, mean, deviation and picture of each, one below the other."""
    from igpt_jax.viz import inpainting_strips, stacked

    rows: list[Any] = []
    for (image, known), result in zip(pictures, filled, strict=True):
        shown = result._replace(draws=result.draws[:, :SHOWN_DRAWS])
        rows.append(inpainting_strips(image[None], known, shown.draws, shown.mean, shade(shown.deviation[0])[None]))
    return stacked(rows)
