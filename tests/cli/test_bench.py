"""igpt bench as a user types it: figures that agree with each other, and bad input."""

import json

import pytest

from igpt_jax.cli import main
from igpt_jax.config import ComputeConfig, ModelConfig
from igpt_jax.planning.flops import training_flops
from tests.cli.conftest import DIGITS

SMALL = [DIGITS, "--tiny", "--repeats", "3", "--json"]


def test_all_figures_are_printed_and_added_to_the_file(tmp_path, capsys):
    out = tmp_path / "new" / "bench.jsonl"
    assert main(["bench", "all", *SMALL, "--out", str(out)]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [figures["what"] for figures in printed] == ["train", "sample", "data"]
    assert [json.loads(line) for line in out.read_text().splitlines()] == printed
    train, drawn, _ = printed
    for figures in printed:
        assert 0 < figures["p10_s"] <= figures["median_s"] <= figures["p90_s"]
    assert train["tokens_per_s"] == pytest.approx(train["batch_size"] * train["tokens"] / train["median_s"])
    model = ModelConfig(grid=(8, 8), n_layer=train["layers"], n_head=train["heads"], d_model=train["width"])
    flops = training_flops(model, ComputeConfig(), train["batch_size"]).headline
    assert train["flops_per_s"] == pytest.approx(flops / train["median_s"])
    assert train["mfu"] is None  # nobody publishes the peak of this CPU
    assert drawn["images_per_s"] == pytest.approx(drawn["batch_size"] / drawn["median_s"])
    assert main(["bench", "sample", *SMALL, "--out", str(out), "--sampler.lookahead", "4"]) == 0
    assert json.loads(out.read_text().splitlines()[3])["lookahead"] == 4


def test_a_table_without_json(capsys):
    assert main(["bench", "data", DIGITS, "--tiny", "--repeats", "1"]) == 0
    assert "images per s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train"], "bench: name an experiment, such as digits, or a model with --model.preset"),
        (["speed", DIGITS], "'speed' is none of all, data, sample, train"),
        (["train", DIGITS, "--repeats", "0"], "--repeats 0: must be at least 1"),
        (["train", "denoise", "--tiny"], "bench: models that read a damaged picture are not timed"),
        (["sample", DIGITS, "--tiny", "--model.no-causal"], "a BERT model sees all pixels at once"),
    ],
)
def test_bad_input(words, line, capsys):
    assert main(["bench", *words]) == 2
    assert line in capsys.readouterr().err
