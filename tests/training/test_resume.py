"""A run that is stopped and continued is the run that was never stopped, bit for bit."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.config import OptimConfig
from igpt_jax.config_json import to_json
from igpt_jax.pretrained import load_workdir
from igpt_jax.run import Extensions, check_continues, prepare, train
from igpt_jax.training.loop import Interrupted
from igpt_jax.training.metric_log import NonFiniteError
from igpt_jax.training.workdir import claim_workdir
from tests.processes import lines
from tests.small_run import CFG, at_step, crash, state_bytes


@pytest.fixture(scope="session")
def straight(trained):
    return trained()


def test_interrupted_four_ways_and_continued(straight, tmp_path, monkeypatch):
    """SIGTERM, SIGINT, a crash between checkpoints, and a torn metrics file.

    Orbax must not ask JAX whether to stop: for the step of a save that has ended, JAX would forget where this process
    is. Of a single process the loop does not ask, either.
    """
    asked = []
    monkeypatch.setattr("jax.experimental.multihost_utils.reached_preemption_sync_point", asked.append)
    workdir = tmp_path / "run"
    for step, signum in ((2, signal.SIGTERM), (5, signal.SIGINT)):
        with pytest.raises(Interrupted, match=f"saved at step {step}"):
            train(CFG, workdir, on_step=at_step(step, lambda s=signum: os.kill(os.getpid(), s)))
        assert load_workdir(workdir).step == step
    with pytest.raises(RuntimeError, match="crash"):
        train(CFG, workdir, on_step=at_step(8, crash))
    assert load_workdir(workdir).step == 6
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "tra')
    assert train(CFG, workdir).step == 10
    assert lines(workdir) == lines(straight)
    assert state_bytes(workdir, 10) == state_bytes(straight, 10)
    assert state_bytes(workdir, 6) == state_bytes(straight, 6)
    assert len(state_bytes(workdir, 10)) > 40
    assert asked == []


def test_the_control_differs(straight):
    """The comparison above can fail: neighbouring checkpoints are not the same bytes."""
    assert state_bytes(straight, 9) != state_bytes(straight, 10)


def test_a_finished_run_is_only_measured_again(copy_of_run):
    straight = copy_of_run
    before = (straight / "metrics.jsonl").read_bytes()
    steps = []
    trained = train(CFG, straight, on_step=lambda step, log: steps.append(step))
    assert (steps, trained.step) == ([], 10)
    last = json.loads(before.splitlines()[-1])
    assert trained.measured["nats_per_token"] == pytest.approx(last["eval/nats_per_token"], rel=1e-6)
    assert (straight / "metrics.jsonl").read_bytes() == before


def test_loaded_weights_are_the_average(straight):
    loaded = load_workdir(straight)
    rest = state_bytes(straight, 10)
    assert np.asarray(loaded.params["wte"]).tobytes() == rest["['ema']['wte']"] != rest["['params']['wte']"]
    assert loaded.config == CFG
    assert loaded.palette.size == 17
    assert load_workdir(straight, step=6).step == 6


def test_another_configuration_is_refused_and_nothing_touched(straight):
    other = dataclasses.replace(CFG, model=dataclasses.replace(CFG.model, d_model=32), seed=5)
    before = {p: p.read_bytes() for p in straight.glob("*.*")}
    with pytest.raises(InputError, match=r"seed is 0 there and 5 here; model\.d_model is 16 there and 32 here"):
        train(other, straight)
    assert {p: p.read_bytes() for p in straight.glob("*.*")} == before


def test_foreign_directories_are_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="holds other files"):
        train(CFG, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]
    file = tmp_path / "holiday.jpg"
    with pytest.raises(InputError, match="is a file"):
        train(CFG, file)


def test_a_second_process_is_kept_out(tmp_path):
    with claim_workdir(tmp_path / "run", CFG), pytest.raises(InputError, match="another process"):
        train(CFG, tmp_path / "run")


def test_what_cannot_be_loaded_is_named(straight, tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        load_workdir(tmp_path / "none")
    with pytest.raises(InputError, match="no checkpoints"):
        load_workdir(tmp_path)
    with pytest.raises(InputError, match="no checkpoint at step 7; there are 3, 6, 9, 10"):
        load_workdir(straight, step=7)
    (tmp_path / "config.json").write_text(to_json(CFG).replace('"seed"', '"sed"'))
    with pytest.raises(InputError, match="did you mean 'seed'"):
        train(CFG, tmp_path)


def test_a_run_is_not_shortened_nor_given_another_palette(copy_of_run):
    workdir = copy_of_run
    with pytest.raises(InputError, match=r"train\.steps: .* checkpoint at step 10, beyond 9"):
        train(dataclasses.replace(CFG, train=dataclasses.replace(CFG.train, steps=9)), workdir)
    np.save(workdir / "palette.npy", np.linspace(-1, 0.9, 17, dtype=np.float32)[:, None])
    with pytest.raises(InputError, match=r"palette\.npy is not the one"):
        train(CFG, workdir)


def test_nan_stops_the_run_and_is_never_saved(tmp_path):
    wild = dataclasses.replace(
        CFG, optim=OptimConfig(lr=1e30, warmup_steps=2), train=dataclasses.replace(CFG.train, checkpoint_every=1)
    )
    with pytest.raises(NonFiniteError, match=r"step \d+: .*(nan|inf).*optim\.lr"):
        train(wild, tmp_path / "run")
    saved = load_workdir(tmp_path / "run")
    assert saved.step == 1  # the warm-up's first step moves nothing; the second would have been saved too
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved.params))


def test_other_images_are_noticed(straight):
    run = prepare(CFG, straight, Extensions())
    newest = check_continues(run)[0]
    assert newest.step == 10
    other = dict(run.data.digests) | {"held_out": "other"}
    run.data = type("OtherData", (), {"digests": other})
    with pytest.raises(InputError, match=r"data\.source: .*held_out"):
        check_continues(run)
