"""igpt sample: new images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from igpt_jax.cli.common import Inline, JoinedCommand, ModelArgs, SamplerArgs, check_class_dropout, require_pictures
from igpt_jax.cli.output import Drawn, check_result_path, write_images
from igpt_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Sample(JoinedCommand):
    """Draw new images with a trained model."""

    weights: Annotated[ModelArgs, Inline] = field(default_factory=ModelArgs)
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many."""
    classes: tuple[str, ...] | None = None
    """For a class-conditional model: names or numbers of the classes to draw, in turn, -1 for none; by default
    a class for each image, as often as in training."""
    out: Path | None = None
    """.png: one picture; .npy: uint8 [n, Y, X, C]; .npz: for FID tools; a new directory: one PNG an image. By default
    samples-seed<seed>.png in the workdir."""
    sampler: Annotated[SamplerArgs, Inline] = field(default_factory=SamplerArgs)

    def run(self) -> None:
        """Draws and writes."""
        if self.n < 1:
            raise InputError(f"-n {self.n}: must be at least 1")
        out = check_result_path(self.weights.result_path(self.out, f"samples-seed{self.sampler.seed}.png"))

        from igpt_jax import sample
        from igpt_jax.pretrained import class_index
        from igpt_jax.sampling.tasks import draw_classes
        from igpt_jax.viz import image_grid

        weights = self.weights.load()
        require_pictures(self.weights.path, weights.config.model.grid)
        sampler = self.sampler.over(weights.config.sampler)
        chosen = [class_index(weights, name) for name in self.classes or ()]
        classes = np.resize(chosen, self.n) if chosen else None
        if classes is None and weights.config.model.cond_classes:
            classes = draw_classes(weights.config.model, self.n, sampler.seed, weights.class_counts)
        check_class_dropout(weights.config, classes, sampler.guidance)
        images = sample(weights.model, weights.params, weights.colors, self.n, sampler=sampler, classes=classes)
        details = [{"index": i} | ({} if classes is None else {"class": int(classes[i])}) for i in range(self.n)]
        settings = {"model": self.weights.path, "step": weights.step, **asdict(sampler)}
        names = [f"{i:0{len(str(self.n - 1))}d}" for i in range(self.n)]
        write_images(out, Drawn(images, names, lambda: image_grid(images), images.shape, settings, classes, details))
