"""igpt probe as a user types it."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from igpt_jax.analysis.probing import ProbeFigures, Row
from igpt_jax.analysis.probing.classifiers import METHODS
from igpt_jax.cli import main
from igpt_jax.cli.probe import print_rows
from tests.cli.conftest import refusal
from tests.cli.made import write_pictures


def test_it_prints_and_writes_what_it_measured(workdir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "probe"
    words = ["--model", str(workdir), "--train-images", "200", "--out", str(out)]
    assert main(["probe", *words, "--json", "--others"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "probe.json").read_text())
    assert printed["images"] == {"train": 200, "held_out": 297}
    assert [row["name"] for row in printed["rows"]] == ["raw pixels", "layer 0", "layer 1"]
    with Image.open(out / "probe.png") as plot:
        assert plot.width > 500
    monkeypatch.setitem(METHODS, "sgd", dataclasses.replace(METHODS["sgd"], choices=(30,)))
    words += ["--layers", "1", "--method", "sgd", "--sgd-steps", "20", "--others", "neighbours"]
    assert main(["probe", *words]) == 0
    printed = capsys.readouterr().out
    assert "raw pixels, nearest neighbours" in printed
    assert "extra trees" not in printed
    assert "layer 1 *" in printed
    assert "layer 0" not in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--layers", "7"], "probe.layers 7: this model has layers 0 to 1"),
        (["--per-class", "0"], "probe.per_class: must be at least 1, not 0"),
        (["--train-images", "1"], "to set 10% aside for validation"),
        (["--per-class", "1000"], "probe.per_class: 1000 labels a class, but class 0 has"),
    ],
)
def test_bad_input(workdir, words, line, tmp_path):
    assert line in refusal("probe", "--model", workdir, "--others", "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_images_without_classes_are_refused(workdir, tmp_path):
    write_pictures(tmp_path, **dict.fromkeys("abcdef", np.zeros((9, 9), np.uint8)))
    words = ["--source", f"folder:{tmp_path}", "--out", tmp_path / "out"]
    assert "has a label, which a probe learns" in refusal("probe", "--model", workdir, *words)


def test_figures_that_are_unknown_are_left_empty(capsys):
    """Of one label a class nothing is chosen, and of one subset there is no standard error."""
    print_rows(ProbeFigures({"train": 9, "held_out": 9}, (Row("few", "C 1", math.nan, 0.5, math.nan),)))
    printed = capsys.readouterr().out
    assert "0.5000" in printed
    assert "nan" not in printed
