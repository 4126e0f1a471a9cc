"""The best weights are kept, and a run ends when it has waited long enough: the same if it was interrupted."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from igpt_jax import Config, InputError, ModelConfig, Palette, load_pretrained
from igpt_jax.objectives import make_objective
from igpt_jax.run import train
from igpt_jax.training.best import better, figure_of
from igpt_jax.training.checkpoint import list_checkpoints
from tests.small_run import CFG, at_step, crash

VALUES = {2: 0.1, 4: 0.5, 6: 0.4, 8: 0.5, 10: 0.9}


class Scripted:
    """An evaluator whose figure is known before."""

    def __init__(self, context):
        del context

    def run(self, params, step):
        del params
        yield "score", VALUES[step]


def run(workdir, **options):
    asked = {"best": "score", "patience": 2, "eval_every": 2, "checkpoint_every": 1} | options
    crash_at = asked.pop("crash_at", None)
    on_step = {} if crash_at is None else {"on_step": at_step(crash_at, crash)}
    cfg = replace(CFG, train=replace(CFG.train, **asked))
    return train(cfg, workdir, evaluators={"scripted": Scripted}, **on_step)


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


def test_a_finished_run_that_is_asked_for_its_best_has_its_last(copy_of_run):
    assert run(copy_of_run, crash_at=11).step == 10


def test_figures_that_are_not_measured_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"train.best: no figure 'scor'; did you mean 'score'\?; there are"):
        run(tmp_path / "run", best="scor")
    with pytest.raises(InputError, match=r"train.patience: name the figure"):
        run(tmp_path / "run", best="")


@pytest.mark.parametrize(
    ("best", "objective", "expected"),
    [
        ("", "ar", ""),
        ("loss", "ar", "nats_per_token"),
        ("loss", "bert", "nats_per_masked_token"),
        ("bits_per_masked_token", "bert", "bits_per_masked_token"),
        ("score", "bert", "score"),
        ("nats_per_token", "bert", r"measures nats_per_masked_token, not nats_per_token; 'loss' names either"),
        ("accuracy", "ar", "accuracy needs a classification head"),
    ],
)
def test_what_an_objective_cannot_measure_is_refused_before_training(best, objective, expected):
    cfg = Config(objective=objective, model=ModelConfig.preset("tiny", causal=objective == "ar"))
    made = make_objective(cfg, Palette.levels(16))
    if " " in expected:
        with pytest.raises(InputError, match=f"train.best: .*{expected}"):
            figure_of(best, made)
    else:
        assert figure_of(best, made) == expected


def test_nats_and_bits_are_better_when_lower():
    assert better("accuracy", 0.9, 0.8)
    assert better("restored_psnr", 30.0, 20.0)
    assert better("nats_per_token", 0.8, 0.9)
    assert not better("bits_per_token", 0.9, 0.8)
    assert not better("accuracy", 0.8, 0.8)
