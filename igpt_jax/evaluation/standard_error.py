"""Standard errors over images. Images that belong together, as variants of one picture do, are not independent."""

from __future__ import annotations

import math

import numpy as np


def ratio_error(totals: np.ndarray, weights: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The standard error of sum(totals) / sum(weights), to first order. NaN for one group.

    Args:
      totals, weights: float [M], of each image.
      groups: int [M], the group of each image. Images of different groups are independent of each other; without
        groups, all images are.
    """
    residuals = totals - totals.sum() / weights.sum() * weights
    if groups is not None:
        residuals = np.bincount(np.unique(groups, return_inverse=True)[1], residuals)
    n = len(residuals)
    return float(np.sqrt(np.sum(residuals**2) * n / (n - 1)) / weights.sum()) if n > 1 else math.nan


def mean_error(values: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The same of a mean. Images whose value is NaN are left out."""
    measured = ~np.isnan(values)
    return ratio_error(values[measured], np.ones(measured.sum()), None if groups is None else groups[measured])
