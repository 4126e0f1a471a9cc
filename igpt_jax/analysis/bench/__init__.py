"""How fast a training step, decoding and the reading of images are on this machine.

Times are of whole programs, after runs that compile and warm up. Beside them stand what this machine reaches in a large
product of matrices and in a copy, measured in the same process, since published peaks are of other clocks and other
precisions.
"""

from igpt_jax.analysis.bench.measure import machine
from igpt_jax.analysis.bench.programs import sample_run, train_run
from igpt_jax.analysis.bench.suite import BENCHES, Item, measure, paper_sizes

__all__ = ["BENCHES", "Item", "machine", "measure", "paper_sizes", "sample_run", "train_run"]
