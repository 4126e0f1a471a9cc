"""How good the representations are that pretraining has learned: classifiers on frozen features (paper section 4)."""

from igpt_jax.analysis.classifiers import Method, choose, vote
from igpt_jax.analysis.probing.classifiers import METHODS
from igpt_jax.analysis.probing.features import FeatureReader, Features
from igpt_jax.analysis.probing.linear_probe import RAW_PIXELS, ProbeFigures, Row, probe

__all__ = [
    "METHODS",
    "RAW_PIXELS",
    "FeatureReader",
    "Features",
    "Method",
    "ProbeFigures",
    "Row",
    "choose",
    "probe",
    "vote",
]
