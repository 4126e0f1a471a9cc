"""The comparison with peers: both sides do the same work, and the README's table is that of the results."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.test_layering import ROOT

PEERS = ROOT / "experiments" / "peers"
SHAPE = ["--layers", "1", "--width", "16", "--heads", "2", "--side", "4", "--vocab", "8", "--rounds", "2"]
SHAPE += ["--batch", "8"]


def load(name):
    spec = importlib.util.spec_from_file_location(f"peers_{name}", PEERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("what", ["train", "sample"])
def test_both_sides_run_in_turns_and_a_line_is_added(what, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    compare, out = load("compare"), tmp_path / "new" / "results.jsonl"
    monkeypatch.setitem(compare.AGAINST, what, ("igpt_jax", "eager"))  # torch.compile takes half a minute
    monkeypatch.setattr(sys, "argv", ["compare.py", what, *SHAPE, "--out", str(out)])
    compare.main()
    (result,) = map(json.loads, out.read_text().splitlines())
    assert result["rounds"] == 2
    assert result["ratio"]["eager"] == pytest.approx(result["seconds"]["eager"] / result["seconds"]["igpt_jax"])
    assert {"device", "commit", "torch", "jax"} <= set(result)
    row = load("table").table([result]).splitlines()[-1]
    assert f"(**{result['ratio']['eager']:.1f}x**)" in row


def test_a_side_that_fails_is_named():
    command = [sys.executable, str(PEERS / "compare.py"), "train", *SHAPE, "--heads", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the side igpt_jax ended with exit code 1" in done.stderr


def test_the_newest_result_of_a_shape_counts(tmp_path):
    table = load("table")
    result = dict.fromkeys(table.SHAPE, 1) | {"seconds": {}, "round": 1}
    lines = [result, result | {"batch": 2}, result | {"round": 2}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(row["batch"], row["round"]) for row in table.rows(tmp_path)] == [(1, 2), (2, 1)]


def test_the_table_of_the_readme_is_that_of_the_results():
    table, readme = load("table"), (ROOT / "README.md").read_text()
    assert table.with_table(readme, table.table(table.rows())) == readme
