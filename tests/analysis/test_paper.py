"""The paper's experiments: each runs in its tiny form, and in its own form is what the paper says."""

from dataclasses import replace

import pytest

from igpt_jax import train
from igpt_jax.analysis.paper import FIGURES
from igpt_jax.config import OptimConfig
from igpt_jax.plugins import load_config, shipped_experiments
from igpt_jax.pretrained import load_workdir

PAPER = [name for name in shipped_experiments() if name.startswith("paper/")]
TINY = {name: load_config(name, tiny=True) for name in PAPER}
DISTINCT = {replace(cfg, name="", optim=OptimConfig()): name for name, cfg in TINY.items()}
"""Runs that differ in more than their name and their rates."""


@pytest.mark.parametrize("name", DISTINCT.values())
def test_two_steps_an_evaluation_and_figures(name, tmp_path):
    figures = train(TINY[name], tmp_path / "run").figures
    assert figures.kind == "validation"
    assert figures.loss.value > 0
    assert (figures.accuracy is not None) == ("finetune" in name)
    if "finetune" in name:
        assert load_workdir(tmp_path / "run" / "best").step == 2


def test_igpt_report_knows_the_figure_of_each():
    assert {load_config(name).name for name in PAPER} == set(FIGURES)


@pytest.mark.parametrize("name", PAPER)
def test_the_recipe_is_the_papers(name):
    cfg = load_config(name)
    assert (cfg.optim.b1, cfg.optim.b2, cfg.optim.weight_decay, cfg.optim.clip_norm) == (0.9, 0.95, 0, None)
    assert cfg.optim.ema_decay is None
    assert cfg.data.flip == ("cifar" in name)
    assert cfg.optim.schedule == ("constant" if "finetune" in name else "cosine")
    assert cfg.data.validation == (0.1 if "cifar" in name else 0.04)
    if "finetune" not in name:
        assert cfg.data.batch_size * cfg.train.steps == 128_000_000
        epoch = 0.96 * 1_281_167 / cfg.data.batch_size
        assert cfg.optim.warmup_steps == pytest.approx(1.04 * epoch, rel=0.01)
