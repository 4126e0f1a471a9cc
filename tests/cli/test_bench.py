"""igpt bench as a user types it: figures that agree with each other, and bad input."""

import json
import shutil

import jax
import jax.numpy as jnp
import pytest

from igpt_jax.analysis.bench import BENCHES
from igpt_jax.analysis.bench.measure import Budget, Span, own_time, slowest, time_runs, trace
from igpt_jax.cli import main
from igpt_jax.config import ComputeConfig, ModelConfig
from igpt_jax.training.flops import training_flops
from tests.cli.conftest import DIGITS, refusal
from tests.test_layering import ROOT

SMALL = [DIGITS, "--tiny", "--repeats", "3", "--json"]


def test_all_figures_are_printed_and_written_to_a_new_file(tmp_path, capsys):
    out = tmp_path / "new" / "bench.jsonl"
    assert main(["bench", "all", *SMALL, "--out", str(out), "--sampler.lookahead", "4"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [figures["what"] for figures in printed] == ["kernels", "train", "sample", "data"]
    assert [json.loads(line) for line in out.read_text().splitlines()] == printed
    kernels, train, drawn, _ = printed
    assert (train["commit"] is not None) == ((ROOT / ".git").exists() and shutil.which("git") is not None)
    assert kernels["reference_error"] == 0
    assert 0 < kernels["chunked_error"] < 1e-5
    for figures in printed[1:]:
        assert 0 < figures["p10_s"] <= figures["median_s"] <= figures["p90_s"]
    assert train["tokens_per_s"] == pytest.approx(train["batch_size"] * train["tokens"] / train["median_s"])
    model = ModelConfig(grid=(8, 8), n_layer=train["layers"], n_head=train["heads"], d_model=train["width"])
    flops = training_flops(model, ComputeConfig(), train["batch_size"]).headline
    assert train["flops_per_s"] == pytest.approx(flops / train["median_s"])
    assert train["mfu"] is None  # nobody publishes the peak of this CPU
    assert drawn["images_per_s"] == pytest.approx(drawn["batch_size"] / drawn["median_s"])
    assert drawn["lookahead"] == 4


def test_what_there_is_no_time_for_is_reported(capsys):
    """Without an experiment, the paper's S, M and L."""
    assert main(["bench", "all", "--budget", "0.000001", "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(figures["what"], figures["layers"]) for figures in printed[:6]] == [
        (what, layers) for what in ("kernels", "train") for layers in (24, 36, 48)
    ]
    assert len(printed) == 15
    assert {figures["skipped"] for figures in printed} == {"the budget of 1e-06 s is over"}


def test_out_of_memory_is_a_line_and_the_rest_goes_on(monkeypatch, capsys):
    def too_large(cfg, budget):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 99 GB")

    monkeypatch.setitem(BENCHES, "train", too_large)
    monkeypatch.setitem(BENCHES, "sample", lambda cfg, budget: {"what": "sample", "median_s": 1.0})
    monkeypatch.setitem(BENCHES, "kernels", lambda cfg, budget: {"what": "kernels"})
    assert main(["bench", "all", *SMALL]) == 0
    printed = {line["what"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert printed["train"]["skipped"].startswith("out of memory with ")
    assert printed["sample"]["median_s"] == 1.0
    assert printed["data"]["median_s"] > 0


def test_own_time_leaves_out_what_is_inside():
    """A loop of two products, one with a copy inside, and a copy after it."""
    spans = [
        Span("copy", 100, 103),
        Span("while", 0, 100),
        Span("dot", 10, 40),
        Span("copy", 20, 25),
        Span("dot", 40, 90),
    ]
    assert own_time(spans) == {"while": 20, "dot": 75, "copy": 8}


def test_the_newest_trace_names_the_slowest_operations(tmp_path):
    x = jax.random.normal(jax.random.key(0), (400, 500))
    sort, product = jax.jit(lambda x: jnp.sort(x.ravel())), jax.jit(lambda x: x.T @ x)
    trace(lambda: sort(x).block_until_ready(), tmp_path / "here")
    shares = slowest(tmp_path / "here")
    assert next(iter(shares)).startswith("sort")
    assert 0.5 < sum(shares.values()) <= 1 + 1e-9
    trace(lambda: product(x).block_until_ready(), tmp_path / "here")
    assert not any(name.startswith("sort") for name in slowest(tmp_path / "here"))


def test_traces_of_each_item_and_their_slowest_operations(tmp_path, capsys):
    assert main(["bench", "all", *SMALL, "--repeats", "1", "--traces", str(tmp_path / "traces")]) == 0
    kernels, train, drawn, data = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(train["slowest_operations"].values()) <= 1 + 1e-9
    assert drawn["slowest_operations"]
    assert kernels["slowest_reference"]
    assert not any(name.startswith("slowest") for name in data)
    traced = sorted(path.relative_to(tmp_path / "traces").parts[:2] for path in tmp_path.rglob("*.trace.json.gz"))
    assert ("01-train-2x32", "operations") in traced
    assert ("02-sample-2x32", "operations") in traced
    (tmp_path / "taken").write_text("")
    assert "--traces" in refusal("bench", "data", *SMALL, "--traces", tmp_path / "taken" / "in")


def test_runs_end_with_the_time_but_for_the_first():
    assert len(time_runs(lambda: None, Budget(5), "")) == 5
    assert len(time_runs(lambda: None, Budget(5, until=0), "")) == 1


def test_a_table_without_json_and_a_line_that_is_added(tmp_path, capsys):
    out = tmp_path / "bench.jsonl"
    out.write_text("{}\n")
    assert main(["bench", "data", DIGITS, "--tiny", "--repeats", "1", "--out", str(out)]) == 0
    assert "images per s" in capsys.readouterr().out
    assert [json.loads(line).get("what") for line in out.read_text().splitlines()] == [None, "data"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train"], "bench: name an experiment, such as digits, or a model with --model.preset"),
        (["all", "--budget", "0"], "--budget 0: must be more than 0"),
        (["train", DIGITS, "--repeats", "0"], "--repeats 0: must be at least 1"),
        (["train", DIGITS, "--tiny", "--data.batch-size", "3"], "data.batch_size: 3 images at once do not split over"),
        (["train", "denoise", "--tiny"], "bench: models that read a degraded picture are not timed"),
        (["sample", DIGITS, "--tiny", "--model.no-causal"], "a BERT model sees all pixels at once"),
    ],
)
def test_bad_input(words, line):
    assert line in refusal("bench", *words)
