"""igpt eval: how well a trained model predicts images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from igpt_jax.cli.common import Flag, Inline, JoinedCommand, ModelArgs
from igpt_jax.cli.figures import print_figures
from igpt_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Evaluate(JoinedCommand):
    """Likelihood (and accuracy) of a trained model on images, beside cheap methods."""

    weights: Annotated[ModelArgs, Inline] = field(default_factory=ModelArgs)
    source: str | None = None
    """Images to measure on (folder:PATH, idx:PATH, tfds:NAME); by default those of the run."""
    split: Literal["eval", "validation", "train", "all"] = "eval"
    """The held-out images, those set aside for validation, those for training, or all. A flat folder holds out
    data.holdout of its images."""
    max_unreadable: Annotated[float | None, tyro.conf.arg(name="data.max-unreadable")] = None
    """Largest share of a folder's images that may be unreadable and skipped."""
    images: int | None = None
    """Measure so many images, spread evenly over the split, instead of all."""
    batch_size: int | None = None
    """Images at once; it does not change the figures."""
    orders: int | None = None
    """For a model of any order: in how many random orders each image is measured."""
    evaluators: tuple[str, ...] = ()
    """Also measure with these: likelihood, accuracy, orders, holes, restoration, bayes, or those of plugins."""
    network: Flag = False
    """Train a small network on the neighbours of each pixel as one more cheap method: minutes."""
    bayes: Flag = False
    """Of a class-conditional model: classify images by Bayes' rule, one pass for each class. As --evaluators bayes."""
    lossless: Flag = False
    """Also write the images, as the palette shows them, to PNG, WebP and JPEG XL (extra jxl) without loss, many in one
    file, and print the bits per token."""
    json: Flag = False
    """Print JSON."""

    def run(self) -> None:
        from igpt_jax.analysis.baselines import learning_images
        from igpt_jax.analysis.beside import beside
        from igpt_jax.analysis.codecs import lossless_sizes
        from igpt_jax.evaluation import Evaluators
        from igpt_jax.evaluation.evaluate import select_images

        weights = self.weights.load_with(self.source, self.batch_size)
        cfg = weights.config
        if self.max_unreadable is not None:
            cfg = replace(cfg, data=replace(cfg.data, max_unreadable=self.max_unreadable))
        if self.orders is not None:
            if not cfg.model.any_order:
                raise InputError(f"--orders {self.orders}: this model reads images in raster order only")
            cfg = replace(cfg, train=replace(cfg.train, eval_orders=self.orders))
        weights = replace(weights, config=cfg)
        context, params = select_images(weights, self.split, self.images)
        learning_images(context, self.network)  # too few for the network: refused before minutes of measuring
        figures = Evaluators(context, (*self.evaluators, *(["bayes"] if self.bayes else []))).measure(params)
        sizes = lossless_sizes(context) if self.lossless else {}
        print_figures(beside(figures, context, self.network), self.json, sizes)
