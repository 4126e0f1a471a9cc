"""igpt complete: the unknown part of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from igpt_jax.cli.draw import PictureCommand, load_images, load_mask
from igpt_jax.cli.output import Result
from igpt_jax.errors import InputError

if TYPE_CHECKING:
    from igpt_jax.config import Config
    from igpt_jax.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class Complete(PictureCommand):
    """Complete images of which a part is known: the top half, some rows, or all but a mask."""

    task = "complete"
    file_name = "completions-seed{}.png"
    suffixes = (".png", ".npy", ".npz")
    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Picture files of any size; they are brought to the model's grid."""
    rows: int | None = None
    """Known rows, from the top; by default half of them."""
    mask: Path | None = None
    """A picture of the same shape: light where pixels are to be drawn, dark where they are known."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 4
    """Completions per image."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """For a class-conditional model: name or number of the images' class."""
    out: Path | None = None
    """.png: strips; .npy: uint8 [B, n, Y, X, C]; .npz: for FID tools; a new directory: one PNG a completion. By default
    completions-seed<seed>.png in the workdir."""

    def check(self) -> None:
        super().check()
        if self.rows is not None and self.mask is not None:
            raise InputError("complete: --rows and --mask both say which pixels are known; take one")

    def draw(self, weights: Pretrained, given: tuple[np.ndarray, np.ndarray]) -> Result:
        from igpt_jax import complete
        from igpt_jax.pretrained import class_index
        from igpt_jax.viz import strips

        images, known = given
        class_id = None if self.class_name is None else class_index(weights, self.class_name)
        model = self.request(weights, None if class_id is None else np.array([class_id]))
        drawn = complete(*model, images, known, self.n, sampler=self.sampler, classes=class_id, draft=weights.draft)
        columns = [("prompt", images), ("completion", drawn), ("original", images)]
        names = [f"{i}-{path.stem}-{j}" for i, path in enumerate(self.images) for j in range(self.n)]
        flat = drawn.reshape(-1, *drawn.shape[2:])
        details = [{"image": str(path), "index": j} for path in self.images for j in range(self.n)]
        labels = None if class_id is None else np.full(len(names), class_id)
        return Result(flat, names, lambda: strips(columns, known), drawn.shape, labels=labels, details=details)

    def read(self, cfg: Config) -> tuple[np.ndarray, np.ndarray]:
        """The images uint8 [B, Y, X, C] on the model's grid, and bool [Y, X] or [B, Y, X], True where known."""
        from igpt_jax.datasets import picture_size, preprocess_for_eval
        from igpt_jax.sampling.tasks import top_rows

        size = picture_size(cfg)
        if self.rows is not None and not 0 <= self.rows < size[0]:
            what = "leaves nothing to draw" if self.rows == size[0] else "is not possible"
            raise InputError(f"--rows {self.rows}: {what}; the model's images have {size[0]} rows")
        loaded = load_images(cfg, self.images)
        images = preprocess_for_eval(cfg, loaded)
        if self.mask is None:
            return images, top_rows(size, self.rows)
        mask, known = load_mask(self.mask), []
        for path, image in zip(self.images, loaded, strict=True):
            if mask.shape != size and not same_aspect(mask.shape, image.shape):
                shapes = " and ".join(f"{x.shape[1]} x {x.shape[0]}" for x in (mask, image))
                raise InputError(
                    f"--mask {self.mask}: mask and {path} have different shapes ({shapes}); make the mask from the "
                    f"picture, or of the model's {size[1]} x {size[0]} pixels"
                )
            known.append(~hole_on_grid(cfg, mask, (image.shape[0], image.shape[1])))
            if known[-1].all():
                raise InputError(
                    f"--mask {self.mask}: leaves nothing to draw on the model's {size[1]} x {size[0]} pixels; paint "
                    "what is to be drawn white, inside the part of the picture that the model sees"
                )
        return images, np.stack(known)


def hole_on_grid(cfg: Config, hole: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [Y, X]: the pixels of the model's grid that the hole of a picture of `size` reaches.

    Args:
      hole: bool of the grid's size, or of the picture's aspect ratio.
    """
    from igpt_jax.datasets import picture_size, reached_by

    if hole.shape == picture_size(cfg):
        return hole
    rows, columns = (np.arange(n) * hole.shape[axis] // n for axis, n in enumerate(size))
    return reached_by(cfg, hole[rows[:, None], columns])


def same_aspect(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes [y, x, ...] have the same aspect ratio, up to rounding to whole pixels."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(a[0], a[1], b[0], b[1])
