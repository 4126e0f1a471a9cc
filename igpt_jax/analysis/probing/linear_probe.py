"""The linear probe of the paper: a classifier on frozen features, layer by layer, beside raw pixels."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from igpt_jax import progress
from igpt_jax.analysis.classifiers import VALIDATION, Labelled, Method, choose, choose_and_fit, vote
from igpt_jax.analysis.probing.classifiers import METHODS, fit_sgd
from igpt_jax.analysis.probing.features import FeatureReader, Features
from igpt_jax.config import ProbeConfig
from igpt_jax.data.sources.base import Source, Split, split_validation
from igpt_jax.datasets import subset
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext
from igpt_jax.evaluation.evaluate import make_eval_context
from igpt_jax.objectives import MakeObjective
from igpt_jax.parallel.mesh import outside_mesh
from igpt_jax.pretrained import Pretrained

log = logging.getLogger(__name__)

RAW_PIXELS = ("raw pixels", *(f"raw pixels, {METHODS[other].name}" for other in ProbeConfig.others))
"""The rows of classifiers that see no features."""


@dataclass(frozen=True)
class Row:
    """One classifier, measured."""

    name: str
    setting: str
    """What was chosen on validation images, in words."""
    validation: float
    """Accuracy on the validation images before they were folded back; of few labels, over folds of them. NaN where
    nothing was chosen, as of extra trees."""
    accuracy: float
    """On the held-out images."""
    error: float
    """Its standard error over images; of few labels, over the subsets."""


@dataclass(frozen=True)
class ProbeFigures:
    """What a probe has measured."""

    images: dict[str, int]
    """How many images: train (validation among them) and held_out."""
    rows: tuple[Row, ...]
    layers: dict[int, Row] = field(default_factory=dict)
    """Those of `rows` that are of one layer, by its number."""
    best_layer: int = 0
    """The layer with the best validation accuracy."""
    best_pixels: Row | None = None
    """Of the classifiers that see raw pixels and all labels, the one with the best held-out accuracy."""


@outside_mesh
def probe(
    pretrained: Pretrained,
    settings: ProbeConfig | None = None,
    *,
    source: Mapping[Split, Source] | None = None,
    objective: MakeObjective | None = None,
) -> ProbeFigures:
    """Fits classifiers to features of the training images of a configuration, and measures them on the held-out ones.

    For each layer the setting (C, or the learning rate) is chosen on a tenth of the training images that is set aside,
    then the classifier is fitted again to all of them. The best layer is the one with the best validation accuracy. A
    BERT model sees masked images, one mask each in training, and votes over five masks (paper section 4.6). A
    class-conditional model does not get the class. Of few labels, the setting is chosen by folds of them; the layer is
    the best one, which was chosen with more labels. Other classifiers (`settings.others`) get the pixels and the best
    layer; those that would take too long get fewer images, as their row says, or are left out, as the log says.

    Args:
      source, objective: those that the run was given as objects.

    Raises:
      InputError: these are not the images or the objective of the run; the images have no labels or one class; there is
        no such layer; the model restores.
    """
    settings = settings or ProbeConfig()
    layers = settings.layers
    if layers is None:
        layers = tuple(range(pretrained.config.model.n_layer + 1))
    context, params = make_eval_context(pretrained, source=source, objective=objective)
    parts = _read_parts(context, params, layers, settings)
    linear = METHODS[settings.method]
    if settings.method == "sgd":
        linear = replace(linear, fit=functools.partial(fit_sgd, steps=settings.sgd_steps))
    by_layer = {}
    for at, layer in enumerate(layers):
        by_layer[layer] = parts.measure(f"layer {layer}", linear, _layers(at))
        log.info("layer %d: %.4f on validation images", layer, by_layer[layer].validation)
    best = max(by_layer, key=lambda layer: by_layer[layer].validation)
    at_best = layers.index(best)
    rows = [parts.measure(RAW_PIXELS[0], linear, _pixels), *by_layer.values()]
    if settings.together > 1:
        around = _around(at_best, settings.together, len(layers))
        names = f"layers {' '.join(str(layers[at]) for at in around)} together"
        rows.append(parts.measure(names, linear, _layers(*around)))
    both = {"raw pixels": _pixels, f"layer {best}": _layers(at_best)}
    classes, widest = len(np.unique(parts.all_labels)), max(take(parts.aside).shape[-1] for take in both.values())
    others = {f", {m.name}": m for m in (METHODS[name] for name in settings.others) if m.is_feasible(widest, classes)}
    for other, method in others.items():
        rows.extend(parts.measure(name + other, method, take) for name, take in both.items())
    if settings.attentive:
        slots = _read_parts(context, params, (best,), settings, slots=True)
        rows.append(slots.measure(f"layer {best}, attentive", METHODS["attentive"], lambda features: features.values))
    for count in settings.per_class:
        for other, method in {"": METHODS["lbfgs"], **others}.items():
            if method.is_feasible(widest, classes, count):
                rows.extend(parts.few_labels(n + other, method, both[n], count, settings.subsets) for n in both)
    images = {"train": len(parts.all_labels), "held_out": len(parts.held_out.labels)}
    pixels = max((row for row in rows if row.name in RAW_PIXELS), key=lambda row: row.accuracy)
    return ProbeFigures(images, tuple(rows), by_layer, best, pixels)


def _read_parts(
    context: EvalContext, params: Any, layers: Sequence[int], settings: ProbeConfig, slots: bool = False
) -> _Parts:
    reader, data = FeatureReader(context, params, layers, slots), context.data
    rest, aside = split_validation(subset(data.train, settings.train_images), VALIDATION)
    log.info("features of %d training and %d held-out images", len(rest) + len(aside), len(data.held_out))
    parts = _Parts(
        reader.read(rest),
        reader.read(aside, first=len(rest)),
        reader.read(data.held_out, reader.draws, len(data.train)),
    )
    if len(np.unique(parts.rest.labels)) < 2:
        raise InputError("data.source: the training images have one class; a probe needs at least two")
    most = max(settings.per_class, default=0)
    for label, count in zip(*np.unique(parts.all_labels, return_counts=True), strict=True):
        if count < most:
            raise InputError(f"probe.per_class: {most} labels a class, but class {label} has {count} training images")
    return parts


Choose = Callable[[Features], np.ndarray]
"""Features -> float32 [M, n, D], what a classifier gets; of slots [M, n, T, D]."""


def _layers(*at: int) -> Choose:
    return lambda features: features.values[:, :, list(at)].reshape(*features.values.shape[:2], -1)


def _pixels(features: Features) -> np.ndarray:
    return features.pixels[None].astype(np.float32) / 255


def _around(center: int, count: int, n: int) -> range:
    """`count` of n layers around one, or all n."""
    count = min(count, n)
    start = min(max(center - count // 2, 0), n - count)
    return range(start, start + count)


@dataclass(frozen=True)
class _Parts:
    """The three parts of the images on which classifiers are fitted, chosen and measured."""

    rest: Features
    aside: Features
    held_out: Features

    @property
    def all_labels(self) -> np.ndarray:
        return np.concatenate([self.rest.labels, self.aside.labels])

    def measure(self, name: str, method: Method, take: Choose) -> Row:
        """Chooses the setting on the images set aside, and fits again to all training images."""
        rest, aside = (Labelled(take(part), part.labels) for part in (self.rest, self.aside))
        fitted = choose_and_fit(method, rest, aside)
        correct = vote(fitted.predict, take(self.held_out)) == self.held_out.labels
        accuracy = float(correct.mean())
        error = float(np.sqrt(accuracy * (1 - accuracy) / len(correct)))
        fewer = f", {fitted.images} images" if fitted.images < len(self.all_labels) else ""
        return Row(name, f"{method.setting} {fitted.setting:g}{fewer}", fitted.validation, accuracy, error)

    def few_labels(self, name: str, method: Method, take: Choose, count: int, subsets: int) -> Row:
        """A classifier of `count` labels a class: the mean over random subsets, and its standard error."""
        x, y = np.concatenate([take(self.rest)[0], take(self.aside)[0]]), self.all_labels
        held_out = take(self.held_out)
        default = 1 if 1 in method.choices else method.choices[0]
        by_folds = count > 1 and len(method.choices) > 1
        measured = []
        for number in progress.track(range(subsets), f"{name}, {count} labels a class", subsets):
            rows = _draw_subset(y, count, np.random.default_rng((number, count)))
            accuracies = functools.partial(_fold_accuracies, method, x[rows], y[rows], min(5, count))
            setting, validation = default, np.nan
            if by_folds:
                setting, validation = choose(method, lambda setting, a=accuracies: float(np.mean(list(a(setting)))))
            correct = vote(method.fit(x[rows], y[rows], setting), held_out) == self.held_out.labels
            measured.append((validation, correct.mean()))
        validation, accuracy = np.mean(measured, axis=0)
        error = np.std([x[1] for x in measured], ddof=1) / np.sqrt(subsets) if subsets > 1 else np.nan
        how = f"{method.setting} by folds" if by_folds else f"{method.setting} {default:g}"
        return Row(f"{name}, {count} labels a class", how, float(validation), float(accuracy), float(error))


def _draw_subset(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `count` images of each class."""
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rng.choice(of_class, count, replace=False) for of_class in rows])


def _fold_accuracies(method: Method, x: np.ndarray, y: np.ndarray, folds: int, setting: float) -> Iterator[float]:
    """The accuracy on each fold of a classifier fitted to the others; every fold has the same share of each class."""
    fold = np.zeros(len(y), int)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        fold[rows] = np.arange(len(rows)) % folds
    for i in range(folds):
        predict = method.fit(x[fold != i], y[fold != i], setting)
        yield float(np.mean(predict(x[fold == i]) == y[fold == i]))
