"""Cheap classifiers of pixels, to compare a trained model's accuracy with; and how a classifier's setting is chosen."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np

from igpt_jax import progress
from igpt_jax.data.sources.base import Source
from igpt_jax.data.sources.validation import set_aside
from igpt_jax.datasets import spread, subset
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext, gather

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
    most: Callable[[int, int], int] = lambda width, classes: sys.maxsize
    """(D, classes) -> training images, at most."""

    def take(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images to fit to: all, or at most as many as `most` says, spread evenly."""
        most = self.most(x.shape[-1], len(np.unique(y)))
        if len(x) <= most:
            return x, y
        at = spread(len(x), most)
        return x[at], y[at]

    def able(self, width: int, classes: int, each: int = LEAST_OF_CLASS) -> bool:
        """Whether `most` leaves so many images of each class; the log has a line if not."""
        able = self.most(width, classes) >= each * classes
        if not able:
            log.info("no %s: %d images of %d classes take too long", self.name, each * classes, classes)
        return able


def fit_logistic(x: np.ndarray, y: np.ndarray, c: float) -> Predict:
    """Logistic regression by L-BFGS, as in the paper (section 4.2), on features of mean 0 and variance 1.

    Args:
      c: scikit-learn's C, the inverse of the penalty on squared weights.
    """
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
    """A support vector machine with a Gaussian kernel, whose width is that of scikit-learn (gamma "scale").

    Args:
      c: scikit-learn's C, the price of an image on the wrong side.
    """
    from sklearn.svm import SVC

    return SVC(C=c).fit(x, y).predict


def fit_trees(x: np.ndarray, y: np.ndarray, trees: float) -> Predict:
    """Extremely randomized trees (Geurts, Ernst and Wehenkel 2006): about as good as a random forest, and faster."""
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(int(trees), n_jobs=-1, random_state=0).fit(x, y).predict


def most_vectors(width: int, classes: int) -> int:
    """Training images, at most, of a support vector machine."""
    return max(math.isqrt(KERNEL_NUMBERS // width), 1)


def most_of_trees(width: int, classes: int) -> int:
    """Training images, at most, of trees, which hold a number for each class in each leaf."""
    return max(TREE_NUMBERS // classes, 1)


LOGISTIC = Method("logistic regression", "C", tuple(10.0**i for i in range(-5, 4)), fit_logistic)
NEIGHBOURS = Method("nearest neighbours", "k", (1, 3, 5, 10, 20), fit_neighbours)
SUPPORT_VECTORS = Method("support vector machine", "C", (30, 10, 3, 1), fit_support_vectors, most_vectors)
TREES = Method("extra trees", "trees", (500,), fit_trees, most_of_trees)
PIXELS = (LOGISTIC, NEIGHBOURS, SUPPORT_VECTORS, TREES)
"""What stands beside a model's accuracy."""


def choose(method: Method, accuracy: Callable[[float], float]) -> tuple[float, float]:
    """The setting with the best accuracy, and that accuracy.

    Args:
      accuracy: setting -> accuracy on images that the classifier was not fitted to.
    """
    best, best_accuracy, worse = method.choices[0], -1.0, 0
    for setting in method.choices:
        measured = accuracy(setting)
        worse = 0 if measured >= best_accuracy else worse + 1
        if measured > best_accuracy:
            best, best_accuracy = setting, measured
        if worse == 2:
            break
    return best, best_accuracy


def classify_pixels(context: EvalContext) -> dict[str, np.ndarray]:
    """Name -> float64 [M], 1 where a classifier of `PIXELS` names a held-out image rightly, else 0.

    It is NaN where the image has no label. All see the pixels that the model gets, before the palette, of as many
    training images as are quick to fit; their names say how many. The setting is chosen on a tenth of at most 10,000
    training images, then the classifier is fitted again to all of them. Every process computes all. Empty, with a line
    in the log, where there are too few labelled images or where few could be taken for so many classes.
    """
    train, grid = context.data.train, (*context.model.cfg.grid, context.cfg.data.channels)
    classes = max(context.model.cfg.clf_classes, context.model.cfg.cond_classes, 2)
    most = FITTED_NUMBERS // (int(np.prod(grid)) * classes)
    if most < LEAST_OF_CLASS * classes:
        return _none("%d classes of images of this size take too long", classes)
    try:
        parts = set_aside(subset(train, min(most, CHOSEN_ON)), VALIDATION)
    except InputError as e:
        return _none("%s", e)
    rest, aside = (_labelled_pixels(context, part) for part in parts)
    if len(np.unique(rest[1])) < 2 or not len(aside[1]):
        return _none("too few labels or classes among the %d training images", len(train))
    x, y = _labelled_pixels(context, subset(train, most))
    held_out_x, held_out_y = _pixels(context, context.held_out)
    right = {}
    for method in PIXELS:
        if not method.able(x.shape[1], classes):
            continue
        name = f"{method.name} on pixels"
        progress.report(name, 0, 1)

        def validate(setting: float, method: Method = method) -> float:
            return float(np.mean(method.fit(*method.take(*rest), setting)(aside[0]) == aside[1]))

        setting = method.choices[0] if len(method.choices) == 1 else choose(method, validate)[0]
        fitted = method.take(x, y)
        named = f"{name}, {len(fitted[0])} images, {method.setting} {setting:g}"
        right[named] = np.where(held_out_y >= 0, method.fit(*fitted, setting)(held_out_x) == held_out_y, np.nan)
        progress.report(name, 1, 1)
    return right


def _none(why: str, *values: object) -> dict[str, np.ndarray]:
    log.info(f"no cheap classifiers beside the accuracy: {why}", *values)
    return {}


def _labelled_pixels(context: EvalContext, source: Source) -> tuple[np.ndarray, np.ndarray]:
    x, y = _pixels(context, source)
    return x[y >= 0], y[y >= 0]


def _pixels(context: EvalContext, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, Y * X * C] in 0..1 and int [n]: the images of a source and their labels, -1 for none."""

    def read(batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return batch["image"].reshape(len(batch["image"]), -1), batch["label"]

    pixels, labels = gather(context, source, read)
    return pixels.astype(np.float32) / 255, labels
