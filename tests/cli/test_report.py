"""igpt report: what is on the page is what the files of the runs say."""

import json
import re
import shutil

import pytest
from PIL import Image

from igpt_jax.cli import main
from tests.cli.conftest import refusal


@pytest.fixture
def runs(workdir, tmp_path):
    """Two runs; the first was probed."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for file in ("config.json", "metrics.jsonl"):
            shutil.copy(workdir / file, tmp_path / name / file)
        for file in ("samples.png", "loss.png"):
            Image.new("L", (8, 8)).save(tmp_path / name / file)
    row = {"name": "layer 1 <b>", "setting": "C 1", "validation": 0.9, "accuracy": 0.875, "error": 0.01}
    (tmp_path / "one" / "probe").mkdir()
    other = row | {"name": "layer 0", "validation": 0.8, "accuracy": 0.9375}  # better, but not on validation images
    few = row | {"name": "few labels", "validation": None, "error": None}  # of one subset
    probed = {"rows": [other, row, few], "layers": {"0": other, "1": row}, "best_layer": 1}
    probed["best_pixels"] = row | {"name": "raw pixels, extra trees", "accuracy": 0.625}
    (tmp_path / "one" / "probe" / "probe.json").write_text(json.dumps(probed))
    config = json.loads((tmp_path / "two" / "config.json").read_text()) | {"name": "imagenet_s"}
    (tmp_path / "two" / "config.json").write_text(json.dumps(config))
    return tmp_path


def last(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return next(line["eval/nats_per_token"] for line in reversed(lines) if "eval/nats_per_token" in line)


def test_html_holds_figures_and_pictures(runs, capsys):
    assert main(["report", str(runs / "one"), str(runs / "two"), "--out", str(runs / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(runs / "page.html")
    page = (runs / "page.html").read_text().replace("\n", "")
    assert page.count(f"{last(runs / 'one'):.4f} nats per token") == 2
    assert page.count("data:image/png;base64,") == 4
    assert "0.8750 ± 0.0100" in page
    assert "<td>few labels</td><td>C 1</td><td>0.8750</td>" in page
    assert "<td>0.8750</td><td>0.6250</td>" in page
    assert "<td>0.9375</td>" not in page
    assert "layer 1 &lt;b&gt;" in page
    assert "2.0895 nats per token (release)" in page
    assert "model.n_layer 1" in page


def test_markdown_links_pictures_from_where_it_lies(runs):
    (runs / "docs").mkdir()
    assert main(["report", str(runs / "one"), "--out", str(runs / "docs" / "page.md")]) == 0
    page = (runs / "docs" / "page.md").read_text()
    links = re.findall(r"\]\((.+?)\)", page)
    assert sorted(links) == ["../one/loss.png", "../one/samples.png"]
    assert "2.0895" not in page


def test_bad_input(runs):
    (runs / "empty").mkdir()
    for words, line in (
        ([], "name one workdir or several"),
        ([runs / "empty"], "empty: holds no run"),
        ([runs / "one", "--out", "page.pdf"], "must end in .html or .md"),
        ([runs / "one", "--out", "/proc/nowhere/page.md"], "/proc/nowhere/page.md"),
    ):
        assert line in refusal("report", *words)
    (runs / "one" / "config.json").write_text("{")
    assert "config.json" in refusal("report", runs / "one")
