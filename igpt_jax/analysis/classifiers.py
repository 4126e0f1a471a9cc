"""Cheap classifiers of pixels, to compare a trained model's accuracy with; and how a classifier's setting is chosen."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from igpt_jax import progress
from igpt_jax.data.sources.base import Source, split_validation
from igpt_jax.datasets import spread, subset
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EachImage, EvalContext, read_images

log = logging.getLogger(__name__)

Predict = Callable[[np.ndarray], np.ndarray]
"""float32 [n, D] or [n, T, D] -> int [n], the classes."""

VALIDATION = 0.1
"""Share of the training images on which a setting is chosen (paper section 3.4)."""
CHOSEN_ON = 10_000
"""Training images, at most, with which the setting is chosen."""
FITTED_NUMBERS = 500_000_000
"""Images times pixels times channels times classes, at most, of a fit: a minute of one core or less."""
KERNEL_NUMBERS = 100_000_000_000
"""Images squared times features, at most, of a support vector machine: a fit of ten seconds of one core, about."""
TREE_NUMBERS = 200_000
"""Images times classes, at most, of trees: half a minute of one core and 0.8 GB (20,000 images of 196 pixels)."""
LEAST_OF_CLASS = 10
"""Images of a class, at least, or a limited classifier is left out."""
ONE_THREAD_BELOW = 20_000_000
"""Smaller arrays of features are fitted on one core: threads wait for each other there (60 times slower was seen)."""


@dataclass(frozen=True)
class Method:
    """A kind of classifier."""

    name: str
    setting: str
    """What is chosen on validation images."""
    choices: tuple[float, ...]
    """Tried in this order, until two in a row were worse than the best; the first of several equals is taken."""
    fit: Callable[[np.ndarray, np.ndarray, float], Predict]
    """(features float32 [n, D], labels int [n], setting) -> the classifier; of `attentive` they are [n, T, D]."""
    max_images: Callable[[int, int], int] = lambda width, classes: sys.maxsize
    """(D, classes) -> training images, at most."""

    def subsample(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images to fit to: all, or at most as many as `max_images` says, spread evenly."""
        most = self.max_images(x.shape[-1], len(np.unique(y)))
        if len(x) <= most:
            return x, y
        at = spread(len(x), most)
        return x[at], y[at]

    def is_feasible(self, width: int, classes: int, each: int = LEAST_OF_CLASS) -> bool:
        """Whether `max_images` allows that many images of each class; the log has a line if not."""
        feasible = self.max_images(width, classes) >= each * classes
        if not feasible:
            log.info("no %s: %d images of %d classes take too long", self.name, each * classes, classes)
        return feasible


def fit_logistic(x: np.ndarray, y: np.ndarray, c: float) -> Predict:
    """Logistic regression by L-BFGS, as in the paper (section 4.2), on features of mean 0 and variance 1. `c` is
    scikit-learn's C, the inverse of the penalty on squared weights."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    threads = 1 if x.size < ONE_THREAD_BELOW else None
    with warnings.catch_warnings(record=True) as raised, threadpool_limits(threads, "blas"):
        warnings.simplefilter("always")
        model.fit(x, y)
    if any(issubclass(w.category, ConvergenceWarning) for w in raised):
        log.warning("logistic regression with C %g has not converged after 1000 iterations", c)
    return model.predict


def fit_neighbours(x: np.ndarray, y: np.ndarray, k: float) -> Predict:
    """The class that most of the k nearest training images have (Euclidean distance), or of all if they are fewer."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(min(int(k), len(x)), n_jobs=-1).fit(x, y).predict


def fit_support_vectors(x: np.ndarray, y: np.ndarray, c: float) -> Predict:
    """A support vector machine with a Gaussian kernel, whose width is that of scikit-learn (gamma "scale"). `c` is the
    price of an image on the wrong side."""
    from sklearn.svm import SVC

    return SVC(C=c).fit(x, y).predict


def fit_trees(x: np.ndarray, y: np.ndarray, trees: float) -> Predict:
    """Extremely randomized trees (Geurts, Ernst and Wehenkel 2006): about as good as a random forest, and faster."""
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(int(trees), n_jobs=-1, random_state=0).fit(x, y).predict


LOGISTIC = Method("logistic regression", "C", tuple(10.0**i for i in range(-5, 4)), fit_logistic)
NEIGHBOURS = Method("nearest neighbours", "k", (1, 3, 5, 10, 20), fit_neighbours)
SUPPORT_VECTORS = Method(
    "support vector machine",
    "C",
    (30, 10, 3, 1),
    fit_support_vectors,
    lambda width, classes: max(math.isqrt(KERNEL_NUMBERS // width), 1),
)
# trees hold a number for each class in each leaf
TREES = Method("extra trees", "trees", (500,), fit_trees, lambda width, classes: max(TREE_NUMBERS // classes, 1))
PIXELS = (LOGISTIC, NEIGHBOURS, SUPPORT_VECTORS, TREES)
"""What stands beside a model's accuracy."""


def choose(method: Method, accuracy: Callable[[float], float]) -> tuple[float, float]:
    """The setting with the best accuracy on images that the classifier was not fitted to, and that accuracy; NaN where
    there is nothing to choose."""
    if len(method.choices) == 1:
        return method.choices[0], math.nan
    best, best_accuracy, worse = method.choices[0], -1.0, 0
    for setting in method.choices:
        measured = accuracy(setting)
        worse = 0 if measured >= best_accuracy else worse + 1
        if measured > best_accuracy:
            best, best_accuracy = setting, measured
        if worse == 2:
            break
    return best, best_accuracy


class Labelled(NamedTuple):
    """Images with labels: features float32 [draws, n, D] or [draws, n, T, D], and int [n]."""

    x: np.ndarray
    y: np.ndarray


class Fitted(NamedTuple):
    """A classifier whose setting was chosen."""

    predict: Predict
    setting: float
    validation: float
    """Accuracy on the images that chose the setting; NaN if nothing was chosen."""
    images: int
    """How many it was fitted to."""


def choose_and_fit(method: Method, rest: Labelled, aside: Labelled, every: Labelled | None = None) -> Fitted:
    """Chooses the setting on the images set aside, and fits again to all: those of both parts, or `every`. Fits are to
    the first draw; an image that has several is named by vote."""
    chosen_on = method.subsample(rest.x[0], rest.y)

    def validate(setting: float) -> float:
        return float(np.mean(vote(method.fit(*chosen_on, setting), aside.x) == aside.y))

    setting, validation = choose(method, validate)
    both = every or Labelled(np.concatenate([rest.x[:1], aside.x[:1]], axis=1), np.concatenate([rest.y, aside.y]))
    fitted = method.subsample(both.x[0], both.y)
    return Fitted(method.fit(*fitted, setting), setting, validation, len(fitted[0]))


def vote(predict: Predict, draws: Sequence[np.ndarray] | np.ndarray, seed: int = 0) -> np.ndarray:
    """int [n]: the class that most draws of an image's features name, at random among equals (paper section 4.6)."""
    named = np.stack([predict(x) for x in draws])
    if len(named) == 1:
        return named[0]
    classes = np.unique(named)
    votes = (named[..., None] == classes).sum(axis=0)
    ties = np.random.default_rng(seed).random(votes.shape)  # less than one vote
    return classes[(votes + ties).argmax(axis=1)]


def classify_pixels(context: EvalContext) -> dict[str, EachImage]:
    """Name -> 1 where a classifier of `PIXELS` names a held-out image correctly, else 0; weight 0 without a label.

    All see the pixels that the model gets, before the palette, of as many training images as are quick to fit; their
    names say how many. The setting is chosen on a tenth of at most 10,000 training images, then the classifier is
    fitted again to all of them. Every process computes all. Empty, with a line in the log, where there are too few
    labelled images, or too many classes for the few that could be taken.
    """
    train, grid = context.data.train, (*context.model.cfg.grid, context.cfg.data.channels)
    classes = max(context.model.cfg.clf_classes, context.model.cfg.cond_classes, 2)
    most = FITTED_NUMBERS // (int(np.prod(grid)) * classes)
    if most < LEAST_OF_CLASS * classes:
        return _none("%d classes of images of this size take too long", classes)
    try:
        parts = split_validation(subset(train, min(most, CHOSEN_ON)), VALIDATION)
    except InputError as e:
        return _none("%s", e)
    rest, aside = (_labelled(*_pixels(context, part)) for part in parts)
    if len(np.unique(rest.y)) < 2 or not len(aside.y):
        return _none("too few labels or classes among the %d training images", len(train))
    every = _labelled(*_pixels(context, subset(train, most)))
    x, y = _pixels(context, context.held_out)
    correct = {}
    for method in PIXELS:
        if not method.is_feasible(x.shape[1], classes):
            continue
        name = f"{method.name} on pixels"
        progress.report(name, 0, 1)
        fitted = choose_and_fit(method, rest, aside, every)
        named = f"{name}, {fitted.images} images, {method.setting} {fitted.setting:g}"
        correct[named] = EachImage((fitted.predict(x) == y).astype(np.float64), (y >= 0).astype(np.float64))
        progress.report(name, 1, 1)
    return correct


def _none(why: str, *values: object) -> dict[str, EachImage]:
    log.info(f"no cheap classifiers beside the accuracy: {why}", *values)
    return {}


def _labelled(x: np.ndarray, y: np.ndarray) -> Labelled:
    return Labelled(x[None, y >= 0], y[y >= 0])


def _pixels(context: EvalContext, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, Y * X * C] in 0..1 and int [n]: the images of a source and their labels, -1 for none."""

    def read(batch: Mapping[str, jax.Array], keys_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        del keys_B  # nothing is drawn
        return batch["image"].reshape(len(batch["image"]), -1), batch["label"]

    pixels, labels = read_images(context, source, read)
    return pixels.astype(np.float32) / 255, labels
