"""igpt complete: the unknown part of images."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from igpt_jax.cli.common import Inline, JoinedCommand, ModelArgs, SamplerArgs, check_class_dropout, require_pictures
from igpt_jax.cli.output import Drawn, check_result_path, write_images
from igpt_jax.errors import InputError
from igpt_jax.files import local_path

if TYPE_CHECKING:
    from igpt_jax.config import Config


@dataclass(frozen=True, kw_only=True)
class Complete(JoinedCommand):
    """Complete images of which a part is known: the top half, some rows, or all but a mask."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Picture files of any size; they are brought to the model's grid."""
    weights: Annotated[ModelArgs, Inline] = field(default_factory=ModelArgs)
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
    sampler: Annotated[SamplerArgs, Inline] = field(default_factory=SamplerArgs)

    def run(self) -> None:
        """Draws and writes."""
        if not self.images:
            raise InputError("complete: no image named")
        if self.rows is not None and self.mask is not None:
            raise InputError("complete: --rows and --mask both say which pixels are known; take one")
        if self.n < 1:
            raise InputError(f"-n {self.n}: must be at least 1")
        out = check_result_path(self.weights.result_path(self.out, f"completions-seed{self.sampler.seed}.png"))

        from igpt_jax import complete
        from igpt_jax.parallel.processes import raise_on_all, require_same
        from igpt_jax.pretrained import class_index
        from igpt_jax.viz import completion_strips

        weights = self.weights.load()
        require_pictures(self.weights.path, weights.config.model.grid)
        with raise_on_all():
            images, known = self.read(weights.config)
        require_same("the images", hashlib.sha256(images.tobytes() + known.tobytes()).hexdigest())
        sampler = self.sampler.over(weights.config.sampler)
        class_id = None if self.class_name is None else class_index(weights, self.class_name)
        check_class_dropout(weights.config, None if class_id is None else [class_id], sampler.guidance)
        drawn = complete(
            weights.model, weights.params, weights.colors, images, known, self.n, sampler=sampler, classes=class_id
        )
        settings = {"model": self.weights.path, "step": weights.step, **asdict(sampler)}
        details = [{"image": str(path), "index": j} for path in self.images for j in range(self.n)]
        names = [f"{i}-{path.stem}-{j}" for i, path in enumerate(self.images) for j in range(self.n)]
        write_images(
            out,
            Drawn(
                images=drawn.reshape(-1, *drawn.shape[2:]),
                names=names,
                picture=lambda: completion_strips(images, known, drawn, originals=images),
                shape=drawn.shape,
                settings=settings,
                labels=None if class_id is None else np.full(len(names), class_id),
                details=details,
            ),
        )

    def read(self, cfg: Config) -> tuple[np.ndarray, np.ndarray]:
        """The images uint8 [B, Y, X, C] on the model's grid, and bool [Y, X] or [B, Y, X], True where they are known.

        Raises:
          InputError: a file cannot be read, the mask has another shape than an image, or nothing is left to draw.
        """
        from igpt_jax.data.reading import load_image
        from igpt_jax.datasets import picture_size, preprocess_for_eval
        from igpt_jax.sampling.tasks import top_rows

        size = picture_size(cfg)
        if self.rows is not None and not 0 <= self.rows < size[0]:
            what = "leaves nothing to draw" if self.rows == size[0] else "is not possible"
            raise InputError(f"--rows {self.rows}: {what}; the model's images have {size[0]} rows")
        loaded = [load_image(local_path(path, "image"), cfg.data.channels) for path in self.images]
        images = preprocess_for_eval(cfg, loaded)
        if self.mask is None:
            return images, top_rows(size, self.rows)
        mask = load_image(local_path(self.mask, "--mask"), 1)
        for path, image in zip(self.images, loaded, strict=True):
            if mask.shape[:2] != size and not same_aspect(mask.shape, image.shape):
                shapes = " and ".join(f"{x.shape[1]} x {x.shape[0]}" for x in (mask, image))
                raise InputError(
                    f"--mask {self.mask}: mask and {path} have different shapes ({shapes}); make the mask from the "
                    f"picture, or of the model's {size[1]} x {size[0]} pixels"
                )
        known = np.stack([~self.unknown(cfg, mask, image.shape) for image in loaded])
        if known.all(axis=(1, 2)).any():
            raise InputError(
                f"--mask {self.mask}: leaves nothing to draw on the model's {size[1]} x {size[0]} pixels; paint what "
                "is to be drawn white, and where the pictures show it on the grid"
            )
        return images, known

    def unknown(self, cfg: Config, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """bool [Y, X]: the hole of a mask, brought to the model's grid as the picture of this shape is."""
        from PIL import Image

        from igpt_jax.datasets import picture_size, reached_by

        hole = mask[..., 0] >= 128
        if hole.shape == picture_size(cfg):
            return hole
        at_picture = Image.fromarray(hole).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
        return reached_by(cfg, np.asarray(at_picture))


def same_aspect(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes [y, x, ...] have the same aspect ratio, up to rounding to whole pixels."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(a[0], a[1], b[0], b[1])
