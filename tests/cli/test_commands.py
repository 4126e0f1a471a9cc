"""The commands as a user types them: they work on a real workdir, and bad input is one line and exit code 2."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igpt_jax.cli import main
from igpt_jax.evaluation.evaluate import select_images
from igpt_jax.plugins import load_config
from igpt_jax.pretrained import load_workdir
from tests.cli.conftest import DIGITS, PALETTE
from tests.test_layering import ROOT


def picture_size(path):
    with Image.open(path) as image:
        image.load()
        return image.size


def test_quickstart_leaves_what_it_promises(quickstart):
    run = quickstart / "run"
    names = {p.name for p in run.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "palette.npy"}
    assert list((run / "tensorboard").glob("events.*"))
    assert min(picture_size(run / "samples.png")) >= 500  # 8 x 8 tiles that a person can see
    shown = (quickstart / "out").read_text()
    figures = {name: float(nats) for name, nats in re.findall(r"│ (\S[\w -]*?) +│ +([\d.]+) ± ", shown)}
    assert figures["uniform"] == pytest.approx(2.8332, abs=1e-4)
    assert figures["per-pixel histograms"] == pytest.approx(1.6401, abs=1e-4)
    assert figures["model"] < 2.5  # twenty steps are enough to leave the uniform guess well behind
    assert [Path(line).name for line in shown.splitlines()[-3:]] == ["samples.png", "completions.png", "loss.png"]
    for name in ("completions.png", "loss.png"):
        picture_size(run / name)


def test_palette_writes_swatch_and_comparison(tmp_path, capsys):
    command = [*PALETTE, str(tmp_path / "p"), "--colors", "5"]
    assert main(command) == 0
    assert re.search(r"5 colours; reconstruction PSNR \d\d\.\d\d dB", capsys.readouterr().out)
    assert np.load(tmp_path / "p" / "palette.npy").shape == (5, 1)
    for name in ("swatch.png", "before_after.png"):
        picture_size(tmp_path / "p" / name)
    assert main(command) == 2  # it is not overwritten
    assert "already" in capsys.readouterr().err


def test_eval_prints_the_table_with_lossless_files_beside_the_model(workdir, capsys):
    assert main(["eval", "--workdir", str(workdir), "--step", "9", "--lossless"]) == 0
    shown = capsys.readouterr().out
    assert "per-pixel histograms" in shown
    webp, png = (float(re.search(rf"{name}_bits_per_token ([\d.]+)", shown)[1]) for name in ("webp", "png"))
    assert 0.5 < webp < png < 8


def test_eval_and_info_print_json(workdir, capsys):
    assert main(["eval", "--model", str(workdir), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 297
    assert figures["bits"]["model"] == pytest.approx(figures["nats"]["model"] / np.log(2))
    assert main(["info", str(workdir), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layers"], facts["width"], facts["grid"], facts["step"]) == (1, 16, [8, 8], 10)
    assert facts["held_out"]["nats_per_token"] == pytest.approx(figures["nats"]["model"], abs=1e-4)
    assert main(["info", str(workdir)]) == 0
    assert re.search(r"grid +8 x 8", capsys.readouterr().out)
    assert main(["eval", "--model", str(workdir), "--json", "--split", "train", "--images", "50"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["images"], figures["kind"]) == (50, "training")


@pytest.mark.parametrize(
    ("split", "images", "measured"),
    [("eval", None, 297), ("train", None, 1500), ("all", None, 1797), ("eval", 100, 100), ("eval", 1000, 297)],
)
def test_the_split_and_as_many_images_as_are_asked_for(workdir, split, images, measured):
    assert len(select_images(load_workdir(workdir), split, images)[0].held_out) == measured


def test_held_out_numbers_and_time_left_appear_without_a_terminal(quickstart):
    shown = (quickstart / "err").read_text()
    lines = [json.loads(line) for line in (quickstart / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) > 3
    for line in lines:
        if "eval/nats_per_token" in line:
            assert f"step {line['step']}/20  held out: nats per token {line['eval/nats_per_token']:.4f}" in shown
        else:
            rate = f"loss {line['train/loss']:.4f}  {line['train/images_per_s']:.0f} images/s"
            assert f"step {line['step']}/20  {rate}  0:" in shown


def test_a_finished_run_is_reported_again_and_quietly_if_asked(quickstart, tmp_path, capsys, no_report):
    shutil.copytree(quickstart / "run", tmp_path / "run")
    assert main(["train", DIGITS, "--tiny", "--quiet", "--workdir", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err == ""
    assert [trained.step for trained in no_report] == [20]


def test_experiments_describe_themselves():
    """Every experiment file has a tiny form and says its own command."""
    for path in sorted(Path(ROOT, "experiments").glob("*.py")):
        full, tiny = load_config(path), load_config(path, tiny=True)
        assert dataclasses.replace(tiny, train=full.train) != full
        assert tiny.train.steps <= 20
        assert f"igpt train {path.stem} " in path.read_text()
