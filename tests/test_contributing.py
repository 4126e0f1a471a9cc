"""The recipes of CONTRIBUTING.md work as they stand there."""

import re

import pytest

from igpt_jax.cli import main
from igpt_jax.data import sources
from igpt_jax.evaluation import EVALUATORS
from igpt_jax.objectives import OBJECTIVES
from tests.test_layering import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture
def tables(monkeypatch):
    """The tables as they are without plugins, restored afterwards."""
    for table in (OBJECTIVES, EVALUATORS, sources.SOURCES):
        for name in ("completion", "brightness", "stripes"):
            monkeypatch.delitem(table, name, raising=False)
    yield
    for table in (OBJECTIVES, EVALUATORS, sources.SOURCES):
        for name in ("completion", "brightness", "stripes"):
            table.pop(name, None)


def test_an_objective_a_source_and_an_evaluator_from_outside(tables, tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(# my_experiment\.py\n.*?)```", TEXT, re.DOTALL)[1]
    (tmp_path / "my_experiment.py").write_text(code)
    train, evaluate = (line.split()[1:] for line in re.findall(r"^    igpt (?:train|eval).*$", TEXT, re.MULTILINE))
    monkeypatch.chdir(tmp_path)
    assert main([*train, "--train.steps", "1", "--plugin", "my_experiment.py"]) == 0  # the file is run once
    capsys.readouterr()
    assert main(train) == 0
    shown = capsys.readouterr().out
    assert "nats_per_lower_token" in shown
    assert (tmp_path / "runs" / "stripes" / "completions.png").stat().st_size > 100
    for table in (OBJECTIVES, EVALUATORS, sources.SOURCES):
        for name in ("completion", "brightness", "stripes"):
            table.pop(name, None)
    assert main(evaluate[: evaluate.index("--plugin")]) == 2
    assert "plugins" in capsys.readouterr().err
    monkeypatch.setattr("igpt_jax.plugins._loaded", {})
    assert main(evaluate) == 0
    again = capsys.readouterr().out
    assert re.search(r"brightness \d+\.\d+", again)
    nats = [re.search(r"nats_per_lower_token ([\d.]+)", text)[1] for text in (shown, again)]
    assert nats[0] == nats[1]
