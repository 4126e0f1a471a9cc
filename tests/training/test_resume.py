"""A run that is stopped and continued is the run that was never stopped, bit for bit."""

import dataclasses
import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from igpt_jax.config import OptimConfig
from igpt_jax.config_json import to_json
from igpt_jax.evaluation import Evaluator, Figure
from igpt_jax.pretrained import load_workdir
from igpt_jax.run import Extensions, check_continues, prepare, train
from igpt_jax.training.loop import Interrupted
from igpt_jax.training.metric_log import NonFiniteError
from igpt_jax.training.workdir import check_workdir, claim_workdir
from tests.data.made import refused
from tests.processes import lines
from tests.small_run import CFG, at_step, crash, state_bytes


def test_interrupted_four_ways_and_continued(straight, tmp_path, monkeypatch):
    """SIGTERM, SIGINT, a crash between checkpoints, and a torn metrics file; in the end in a thread, which has no
    signal handlers. Orbax never asks JAX whether to stop: for the step of a save that has ended, JAX would forget
    where this process is."""
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
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train, CFG, workdir).result().step == 10
    assert asked == []
    assert lines(workdir) == lines(straight)
    assert state_bytes(workdir, 10) == state_bytes(straight, 10)
    assert state_bytes(workdir, 6) == state_bytes(straight, 6) != state_bytes(straight, 9)
    assert len(state_bytes(workdir, 10)) > 40


def test_a_signal_during_an_evaluation_saves_and_the_evaluation_is_done_when_the_run_continues(tmp_path):
    """Evaluations may take longer than the 30 seconds that clouds give."""
    interrupts = [None, signal.SIGTERM, None]  # from the end: at step 5, at step 10, and there again

    def make_slow(context):
        def measure(params, batch, keys):
            if (signum := interrupts.pop()) is not None:
                os.kill(os.getpid(), signum)
            return {"slow": (np.ones(2), np.ones(2))}

        return Evaluator(measure, {"slow": Figure()}, on_host=True, most=2)

    with pytest.raises(Interrupted) as stopped:
        train(CFG, tmp_path / "run", evaluators={"slow": make_slow})
    assert stopped.value.step == 10
    assert [line["step"] for line in lines(tmp_path / "run") if "eval/slow" in line] == [5]
    assert train(CFG, tmp_path / "run", evaluators={"slow": make_slow}).step == 10
    assert [line["step"] for line in lines(tmp_path / "run") if "eval/slow" in line] == [5, 10]


def test_a_finished_run_is_only_measured_again(straight):
    before = (straight / "metrics.jsonl").read_bytes()
    steps = []
    trained = train(CFG, straight, on_step=lambda step, log: steps.append(step))
    assert (steps, trained.step) == ([], 10)
    last = json.loads(before.splitlines()[-1])
    assert trained.figures.values["nats_per_token"] == pytest.approx(last["eval/nats_per_token"], rel=1e-6)
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
    refused("seed is 0 there and 5 here; model.d_model is 16 there and 32 here", train, other, straight)
    assert {p: p.read_bytes() for p in straight.glob("*.*")} == before


def test_directories_of_others_are_refused(tmp_path):
    file = tmp_path / "holiday.jpg"
    file.write_bytes(b"x")
    refused("holds other files", check_workdir, tmp_path, CFG)
    refused("is a file", check_workdir, file, CFG)
    with claim_workdir(tmp_path / "run", CFG):
        refused("another process", train, CFG, tmp_path / "run")


def test_what_cannot_be_loaded_is_named(straight, tmp_path):
    refused("no such directory", load_workdir, tmp_path / "none")
    refused("no checkpoints", load_workdir, tmp_path)
    refused("no checkpoint at step 7; there are 3, 6, 9, 10", load_workdir, straight, step=7)
    (tmp_path / "config.json").write_text(to_json(CFG).replace('"seed"', '"sed"'))
    refused("did you mean 'seed'", check_workdir, tmp_path, CFG)


def test_a_run_is_not_shortened_nor_continued_on_other_images_or_another_palette(straight, tmp_path):
    run = prepare(CFG, straight, Extensions())
    assert check_continues(run)[0].step == 10
    shorter = dataclasses.replace(CFG, train=dataclasses.replace(CFG.train, steps=9))
    changed = dataclasses.replace(run, cfg=shorter)
    refused(r"train\.steps: .* checkpoint at step 10, beyond 9", check_continues, changed)
    other_images = SimpleNamespace(digests=run.data.digests | {"held_out": "other"})
    refused(r"data\.source: .*held_out", check_continues, dataclasses.replace(run, data=other_images))
    workdir = shutil.copytree(straight, tmp_path / "run")
    np.save(workdir / "palette.npy", np.linspace(-1, 0.9, 17, dtype=np.float32)[:, None])
    refused(r"palette\.npy is not the one", train, CFG, workdir)


def test_nan_stops_the_run_and_is_never_saved(tmp_path):
    wild = dataclasses.replace(
        CFG, optim=OptimConfig(lr=1e30, warmup_steps=2), train=dataclasses.replace(CFG.train, checkpoint_every=1)
    )
    with pytest.raises(NonFiniteError, match=r"step \d+: .*(nan|inf).*optim\.lr"):
        train(wild, tmp_path / "run")
    saved = load_workdir(tmp_path / "run")
    assert saved.step == 1  # the warm-up's first step moves nothing; the second would have been saved too
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved.params))
