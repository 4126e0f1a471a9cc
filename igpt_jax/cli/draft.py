"""igpt draft: a small network with which a model draws faster."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from igpt_jax.cli.common import Inline, JoinedCommand, ModelArgs
from igpt_jax.cli.draw import check_at_least_one
from igpt_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DraftCommand(JoinedCommand):
    """Fit a small network that guesses colours while drawing, for weights that have none. Images stay the same.

    A run has one already (train.draft_steps). It is written beside the weights as draft.npz.
    """

    weights: Annotated[ModelArgs, Inline] = field(default_factory=ModelArgs)
    source: str | None = None
    """Images like those that the model learned from (folder:PATH, idx:PATH, tfds:NAME); by default those of the run."""
    batches: int = 200
    """How many batches of images it learns from."""
    batch_size: int | None = None
    """Images in each; by default as in training."""

    def run(self) -> None:
        check_at_least_one(batches=self.batches, batch_size=self.batch_size)
        from igpt_jax.datasets import open_data
        from igpt_jax.objectives import make_objective
        from igpt_jax.parallel.mesh import make_mesh
        from igpt_jax.parallel.processes import on_process_zero
        from igpt_jax.sampling.draft import DRAFT, save_draft
        from igpt_jax.training.draft import draft_of
        from igpt_jax.weights.load import draft_directory

        directory = draft_directory(Path(self.weights.path))
        if not directory.is_dir():
            raise InputError(
                f"--model {self.weights.path}: is not on this machine; download it, and name its directory"
            )
        if (directory / DRAFT).exists():
            raise InputError(f"{directory / DRAFT}: exists; remove it to fit another")
        weights = self.weights.load_with(self.source, None)
        cfg = weights.config
        if not cfg.model.causal:
            raise InputError(f"--model {self.weights.path}: sees all pixels at once, and draws without guesses")
        if self.batch_size is not None:
            cfg = replace(cfg, data=replace(cfg.data, batch_size=self.batch_size))
        mesh = make_mesh(self.weights.mesh)
        data = open_data(cfg, mesh)
        objective = make_objective(cfg, weights.colors)
        draft = draft_of(cfg, objective, data.train_batches(0), mesh, self.batches)
        on_process_zero(lambda: save_draft(draft, directory))
        print(directory / DRAFT)
