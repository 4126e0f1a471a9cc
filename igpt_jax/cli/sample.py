"""igpt sample: new images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from igpt_jax.cli.common import check_at_least_one
from igpt_jax.cli.draw import DrawCommand
from igpt_jax.cli.output import Result

if TYPE_CHECKING:
    from igpt_jax.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class Sample(DrawCommand):
    """Draw new images with a trained model."""

    task = "sample"
    file_name = "samples-seed{}.png"
    suffixes = (".png", ".npy", ".npz")
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many."""
    classes: tuple[str, ...] | None = None
    """For a class-conditional model: names or numbers of the classes to draw, in turn, -1 for none; by default
    a class for each image, as often as in training."""
    out: Path | None = None
    """.png: one picture; .npy: uint8 [n, Y, X, C]; .npz: for FID tools; a new directory: one PNG an image. By default
    samples-seed<seed>.png in the workdir."""

    def check(self) -> None:
        check_at_least_one(n=self.n)

    def draw(self, weights: Pretrained, given: Any) -> Result:
        from igpt_jax import sample
        from igpt_jax.pretrained import class_index
        from igpt_jax.sampling.tasks import draw_classes
        from igpt_jax.viz import image_grid

        chosen, cfg = [class_index(weights, name) for name in self.classes or ()], weights.config.model
        classes = np.resize(chosen, self.n) if chosen else None
        if classes is None and cfg.cond_classes:
            classes = draw_classes(cfg, self.n, self.sampler.seed, weights.class_counts)
        options = {"sampler": self.sampler, "classes": classes, "draft": weights.draft}
        images = sample(*self.request(weights, classes), self.n, **options)
        details = [{"index": i} | ({} if classes is None else {"class": int(classes[i])}) for i in range(self.n)]
        names = [f"{i:0{len(str(self.n - 1))}d}" for i in range(self.n)]
        return Result(images, names, lambda: image_grid(images), images.shape, labels=classes, details=details)
