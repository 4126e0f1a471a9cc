"""`digits`: scikit-learn's 1797 handwritten digits of 8 x 8 pixels. The last 297 are held out."""

from __future__ import annotations

import numpy as np

from igpt_jax.config import DataConfig
from igpt_jax.data.sources.base import ArraySource, Source, Split
from igpt_jax.errors import require

DIGITS_HELD_OUT = 297


def open_digits(cfg: DataConfig, split: Split, where: str) -> Source:
    """The digits, their 17 levels of grey scaled to 0..255; InputError unless `where` is empty."""
    from sklearn.datasets import load_digits

    require(not where, "data.source", f"write digits alone, without {':' + where!r}")
    images, labels = load_digits(return_X_y=True)
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    part = slice(None, -DIGITS_HELD_OUT) if split == "train" else slice(-DIGITS_HELD_OUT, None)
    return ArraySource("digits", images[part], labels[part], tuple("0123456789"), cfg.channels)
