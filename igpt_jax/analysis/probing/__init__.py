"""How good the representations are that pretraining has learned: classifiers on frozen features (paper section 4)."""

from igpt_jax.analysis.probing.features import FeatureReader, Features
from igpt_jax.analysis.probing.linear_probe import RAW_PIXELS, ProbeFigures, Row, probe

__all__ = ["RAW_PIXELS", "FeatureReader", "Features", "ProbeFigures", "Row", "probe"]
