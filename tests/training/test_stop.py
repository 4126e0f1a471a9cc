"""A run as others call, stop and read it: signals while it evaluates, threads, workers, torn lines, JSON."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from igpt_jax import progress
from igpt_jax.config_json import json_text
from igpt_jax.run import train
from igpt_jax.training.loop import Interrupted
from igpt_jax.training.metric_log import last_evaluation
from tests.small_run import CFG
from tests.test_layering import ROOT


class Slow:
    """An evaluator that reports progress; `act` is called in between."""

    act = staticmethod(lambda: None)

    def __init__(self, context):
        del context

    def run(self, params, step):
        for i in progress.track(range(3), "slow", 3):
            if i == 1:
                self.act()
        yield "figure", float(step) if step < 4 else float("nan")


def run(workdir, **changes):
    cfg = replace(CFG, train=replace(CFG.train, steps=4, eval_every=2, checkpoint_every=4, eval_images=16, **changes))
    return train(cfg, workdir, evaluators={"slow": Slow})


def evaluated(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["eval/figure"]) for line in lines if "eval/figure" in line]


def test_a_signal_ends_an_evaluation_which_is_done_when_the_run_continues(tmp_path, monkeypatch):
    monkeypatch.setattr(Slow, "act", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    for _ in range(2):  # the evaluation that is made up for is interrupted, too
        with pytest.raises(Interrupted, match="saved at step 2"):
            run(tmp_path)
        assert evaluated(tmp_path) == []
    monkeypatch.setattr(Slow, "act", lambda self: None)
    assert run(tmp_path).step == 4
    assert evaluated(tmp_path) == [(2, 2.0), (4, None)]


def test_a_run_in_a_thread_and_what_it_leaves_when_it_is_killed(tmp_path):
    """Python allows signal handlers in the main thread alone."""
    steps = []
    thread = Thread(target=lambda: steps.append(run(tmp_path, best="nats_per_token").step))
    thread.start()
    thread.join()
    assert steps
    whole = last_evaluation(tmp_path, None)
    assert whole["step"] == 4
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "eval/nats_per_tok')
    for step in (None, 9):
        torn = last_evaluation(tmp_path, step)
        assert json_text(torn) == json_text(whole)
    assert last_evaluation(tmp_path, 3)["step"] == 2


def test_json_has_null_for_numbers_that_are_not_finite():
    value = {"a": [float("nan"), (float("inf"), 1.5)], "b": CFG.optim}
    read = json.loads(json_text(value), parse_constant=pytest.fail)
    assert read["a"] == [None, [None, 1.5]]
    assert read["b"]["lr"] == 0.01
    # elsewhere json.dumps makes messages and digests, which are no files
    others = {path.name for path in Path(ROOT, "igpt_jax").rglob("*.py") if "json.dump" in path.read_text()}
    assert others <= {"config_json.py", "checkpoint.py", "processes.py", "joining.py"}


@pytest.mark.parametrize("stdin", [False, True])
def test_workers_of_a_program_without_a_guard_are_one_error(tmp_path, stdin):
    """A child process imports the program first, or cannot find it."""
    code = "from igpt_jax.data.pipeline import require_workers; require_workers(); print('started')"
    (tmp_path / "program.py").write_text(code)
    words = dict(args=[sys.executable], input=code) if stdin else dict(args=[sys.executable, tmp_path / "program.py"])
    done = subprocess.run(**words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("InputError: compute.workers: worker processes cannot start") == 1
    assert "`if __name__ == '__main__':`" in done.stderr
