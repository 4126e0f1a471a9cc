"""What evaluators are made from, what one is, and the driver that runs it over images.

An evaluator measures each image; means, standard errors over groups of images, bits and pairing are computed once,
for every figure alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax import progress
from igpt_jax.config import Config
from igpt_jax.data.sources.base import Source
from igpt_jax.datasets import Data, subset
from igpt_jax.keys import fold_in, stream
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.objectives import Figure, Objective
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import put_batch, replicated, traced_on

T = TypeVar("T")


@dataclass(frozen=True)
class EvalContext:
    """A model without its weights, and the held-out images to evaluate it on."""

    model: ImageGPT
    objective: Objective
    palette: Palette
    cfg: Config
    data: Data
    held_out: Source
    """The images that are measured: those of `data`, or others."""
    kind: str = "held-out"
    """What they are called in tables: held-out, validation or training; empty for all."""

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """int [M]: held-out images of one number are variants of one picture. Standard errors are over the groups."""
        return self.held_out.groups

    @property
    def mesh(self) -> Mesh:
        """Where the evaluation runs."""
        return self.data.mesh


Measure = Callable[[Any, Mapping[str, jax.Array], jax.Array], Mapping[str, tuple[jax.Array, jax.Array]]]
"""(params, batch, one key an image) -> figure: (values [B], weights [B]). Weight 0: not measured of this image."""


class EachImage(NamedTuple):
    """A figure of every image: float64 [M] each."""

    values: np.ndarray
    weights: np.ndarray
    """What each image counts in the mean; 0 where it was not measured."""


@dataclass(frozen=True)
class Evaluator:
    """What is measured of a model. Made by a row of `EVALUATORS` for one context."""

    measure: Measure
    """Pure. It is compiled, unless `on_host`; then it gets all images at once, as numpy arrays."""
    figures: Mapping[str, Figure]
    """What it measures, by name."""
    draws: int = 1
    """How often each image is measured, each time with another key."""
    on_host: bool = False
    most: int | None = None
    """At most this many images, spread evenly."""
    derive: Callable[[Mapping[str, EachImage]], Mapping[str, float]] = lambda images: {}
    """Figures that are not means over images. What `measure` gives and `figures` does not name is for this alone."""


MakeEvaluator = Callable[[EvalContext], Evaluator]
"""Raises InputError if the evaluator does not fit the model."""


def image_keys(context: EvalContext, first: jax.Array | int, n: int) -> jax.Array:
    """The keys of held-out images first .. first + n - 1; neither the batch size nor the mesh matters."""
    return fold_in(stream(context.cfg.seed, "eval"), first + jnp.arange(n))


def replicated_jit(context: EvalContext, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled for the mesh; every process gets its whole result."""
    return jax.jit(traced_on(context.mesh, function), out_shardings=replicated(context.mesh))


def over_batches(
    context: EvalContext, source: Source, run: Callable[[Mapping[str, jax.Array], np.int32], T], title: str
) -> Iterator[T]:
    """What `run` makes of (batch on the mesh, number of its first image), for every batch of a source."""
    done, n = 0, len(source)
    for host in context.data.eval_batches(source):
        progress.report(title, min(done, n), n)
        batch = put_batch(host, context.mesh)
        yield run(batch, np.int32(done))
        done += len(batch["image"])
    progress.report(title, n, n)


class Driver:
    """Runs one evaluator over the held-out images of its context."""

    def __init__(self, context: EvalContext, evaluator: Evaluator, name: str):
        self.evaluator, self._context, self._title = evaluator, context, f"measuring {name}"

        def measure(params: Any, batch: Mapping[str, jax.Array], first: jax.Array, draw: jax.Array) -> Any:
            keys_B = fold_in(image_keys(context, first, len(batch["image"])), draw)
            return dict(evaluator.measure(params, batch, keys_B))

        self._measure = replicated_jit(context, measure)

    def run(self, params: Any) -> dict[str, EachImage]:
        """Every figure of every image, in the order of the images, on every process."""
        context, evaluator, title = self._context, self.evaluator, self._title
        source = subset(context.held_out, evaluator.most)
        n, draws = len(source), range(evaluator.draws)
        if evaluator.on_host:
            batch = {"image": context.data.images(source, n), "label": np.full(n, -1)}
            progress.report(title, 0, n)
            measured = evaluator.measure(params, batch, image_keys(context, 0, n))
            progress.report(title, n, n)
            return _each_image([measured], n)

        def measure(batch: Mapping[str, jax.Array], first: np.int32) -> list[Any]:
            return [self._measure(params, batch, first, np.int32(i)) for i in draws]

        measured = jax.device_get(list(over_batches(context, source, measure, title)))
        return _each_image([jax.tree.map(lambda *x: np.stack(x), *draws) for draws in measured], n)


def _each_image(batches: list[Any], n: int) -> dict[str, EachImage]:
    """Joins batches of (values [B] or [draws, B], weights); the mean over draws, each by its weight. No padding."""
    figures = {}
    for name in batches[0]:
        values, weights = (np.concatenate([np.atleast_2d(b[name][i]) for b in batches], axis=1) for i in range(2))
        values, weights = values[:, :n].astype(np.float64), weights[:, :n].astype(np.float64)
        weight = weights.sum(axis=0)
        totals = np.where(weights > 0, values * weights, 0).sum(axis=0)
        figures[name] = EachImage(totals / np.where(weight > 0, weight, np.nan), weight)
    return figures


@dataclass(frozen=True)
class Estimate:
    """A measured figure."""

    figure: Figure
    value: float
    error: float = math.nan
    """Standard error over groups of images; NaN where there is one group, or no value for each image."""
    images: EachImage | None = None


def estimate(figure: Figure, images: EachImage, groups: np.ndarray) -> Estimate:
    """The weighted mean over images, and its standard error to first order. Images of one group (int [M]), as variants
    of one picture are, are not independent."""
    counted = images.weights > 0
    if not counted.any():
        return Estimate(figure, math.nan, images=images)
    values, weights = images.values[counted], images.weights[counted]
    mean = np.sum(values * weights) / weights.sum()
    residuals = np.bincount(np.unique(groups[counted], return_inverse=True)[1], (values - mean) * weights)
    n = len(residuals)
    error = np.sqrt(np.sum(residuals**2) * n / (n - 1)) / weights.sum() if n > 1 else math.nan
    return Estimate(figure, float(mean), float(error), images)


def difference(other: Estimate, model: Estimate, groups: np.ndarray) -> Estimate | None:
    """A method's figure minus the model's, image by image; None unless both were measured of each image."""
    if other.images is None or model.images is None or len(other.images.values) != len(model.images.values):
        return None
    both = np.where(other.images.weights > 0, model.images.weights, 0)
    return estimate(model.figure, EachImage(other.images.values - model.images.values, both), groups)


def read_images(context: EvalContext, source: Source, read: Callable[[Mapping[str, jax.Array], jax.Array], Any]) -> Any:
    """What a function reads from each image of a source: numpy arrays [n, ...] in order, on every process.

    Each process opens its own share. `read`: (batch, one key an image) -> arrays [B, ...] as a pytree; it is compiled.
    """

    def keyed(batch: Mapping[str, jax.Array], first: jax.Array) -> Any:
        return read(batch, image_keys(context, first, len(batch["image"])))

    compiled = replicated_jit(context, keyed)

    def run(batch: Mapping[str, jax.Array], first: np.int32) -> Any:
        return jax.device_get(compiled(batch, first))

    parts = list(over_batches(context, source, run, "reading images"))
    return jax.tree.map(lambda *xs: np.concatenate(xs)[: len(source)], *parts)
