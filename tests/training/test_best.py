"""The best weights are kept, and a run ends when it has waited long enough: the same if it was interrupted."""

import math
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import load_pretrained
from igpt_jax.evaluation import Evaluator, Figure
from igpt_jax.objectives import ACCURACY, NATS
from igpt_jax.run import train
from igpt_jax.training.best import BestWeights, figure_of, is_better
from igpt_jax.training.checkpoint import CheckpointMeta, list_checkpoints
from tests.data.made import refused
from tests.small_run import CFG, crash

VALUES = {2: 0.1, 4: 0.5, 6: 0.4, 8: 0.5, 10: 0.9}


class Scripted:
    """An evaluator whose figure is known before, in the order of the evaluations."""

    step = 10  # of a run that is finished already

    def __call__(self, context):
        def measure(params, batch, keys):
            n = len(batch["image"])
            return {"score": (np.full(n, VALUES[self.step]), np.ones(n))}

        return Evaluator(measure, {"score": Figure("", "higher")}, on_host=True, most=2)


def run(workdir, scripted=None, **options):
    asked = {"best": "score", "patience": 2, "eval_every": 2, "checkpoint_every": 1} | options
    crash_at, scripted = asked.pop("crash_at", None), scripted or Scripted()

    def on_step(step, log):
        scripted.step = step
        if step == crash_at:
            crash()

    cfg = replace(CFG, train=replace(CFG.train, **asked))
    return train(cfg, workdir, evaluators={"scripted": scripted}, on_step=on_step)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run that ends before its last step, in pieces."""
    workdir = tmp_path_factory.mktemp("best") / "run"
    for step in (5, 8):  # after an evaluation that was worse, and in the step after which it ends
        with pytest.raises(RuntimeError, match="crash"):
            run(workdir, crash_at=step)
    return run(workdir)


def test_it_ends_after_so_many_evaluations_without_a_better_one(ended):
    assert list_checkpoints(ended.workdir)[0].step == 8  # an equal one is not better
    assert ended.step == 4


def test_the_best_weights_can_be_loaded_and_are_those_of_their_step(ended):
    best = load_pretrained(ended.workdir / "best")
    assert best.step == 4
    assert best.data == load_pretrained(ended.workdir).data
    at_its_step = load_pretrained(ended.workdir, step=4)
    for a, b, c in zip(*map(jax.tree.leaves, (best.params, at_its_step.params, ended.params)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_the_same_command_trains_no_further_and_more_patience_does(ended):
    assert run(ended.workdir, crash_at=9).step == 4
    assert run(ended.workdir, patience=3).step == 10
    assert [meta.step for meta in list_checkpoints(ended.workdir / "best")] == [10]


def test_a_finished_run_that_is_asked_for_its_best_has_its_last(straight, tmp_path):
    workdir = shutil.copytree(straight, tmp_path / "run")
    assert train(replace(CFG, train=replace(CFG.train, best="loss")), workdir).step == 10


@pytest.fixture
def kept(tmp_path):
    """A function that measures values at steps 1, 2, ... and gives the steps whose weights are kept."""

    def kept(better, *values):
        best = BestWeights(tmp_path, ("score", better), 2, CheckpointMeta(0, CFG, None, {}, {}, {}))
        for step, value in enumerate(values, 1):
            best.update(step, {"wte": jnp.full(3, value)}, {"eval/score": value})
        return [meta.step for meta in list_checkpoints(tmp_path / "best")]

    return kept


def test_a_figure_that_is_better_when_lower_keeps_its_lowest(kept):
    """Whatever it is called: an order gap is no score."""
    assert kept("lower", 0.4, 0.1, 0.5, 0.1) == [2]


def test_the_best_is_the_last_that_was_saved_also_where_a_higher_step_lies(kept):
    """A run that was killed after it kept its best weights, and is continued with other evaluations."""
    assert kept("higher", 0.1, 0.2, 0.3, 0.4) == [4]
    assert kept("higher", 0.1, 0.2) == [2]
    assert kept("higher", 0.3, 0.2) == kept("higher", 0.4) == [1]


def test_figures_that_are_not_measured_are_refused_before_training(tmp_path):
    says = r"train.best: must be one of loss, .*; got 'scor'; did you mean 'score'\?"
    refused(says, run, tmp_path / "run", best="scor")
    assert not (tmp_path / "run").exists()
    refused(r"train.patience: name the figure", run, tmp_path / "run", best="")


def test_train_best_knows_figures_by_name():
    figures = {"nats_per_token": NATS, "accuracy": ACCURACY, "order_gap": NATS, "mse": Figure()}
    assert figure_of("", "nats_per_token", figures) == ("", "lower")
    assert figure_of("loss", "nats_per_token", figures) == ("nats_per_token", "lower")
    assert figure_of("bits_per_token", "nats_per_token", figures) == ("bits_per_token", "lower")
    assert figure_of("accuracy", "nats_per_token", figures) == ("accuracy", "higher")
    assert figure_of("order_gap", "nats_per_token", figures) == ("order_gap", "lower")
    assert figure_of("loss", "mse", figures) == ("mse", "lower")
    refused(r"train.best: must be one of", figure_of, "nats_per_masked_token", "nats_per_token", figures)
    assert is_better("lower", 0.8, 0.9)
    assert not is_better("higher", 0.8, 0.8)
    assert not is_better("lower", math.nan, 0.9)
