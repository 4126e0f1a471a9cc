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
from igpt_jax.datasets import open_data
from igpt_jax.plugins import load_config
from igpt_jax.pretrained import load_workdir
from tests.cli.conftest import DIGITS, PALETTE
from tests.test_layering import ROOT


def picture_size(path):
    with Image.open(path) as image:
        image.load()
        return image.size


def test_quickstart_leaves_what_it_promises(workdir):
    names = {p.name for p in workdir.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "palette.npy"}
    assert list((workdir / "tensorboard").glob("events.*"))
    assert min(picture_size(workdir / "samples.png")) >= 500  # 8 x 8 tiles that a person can see
    for name in ("completions.png", "loss.png"):
        picture_size(workdir / name)


def test_it_ends_with_the_figures_beside_the_baselines(workdir, capsys):
    assert main(["train", DIGITS, "--tiny", "--workdir", str(workdir)]) == 0  # finished: reports again
    shown = capsys.readouterr().out
    figures = {name: float(nats) for name, nats in re.findall(r"│ (\S[\w -]*?) +│ +([\d.]+) ± ", shown)}
    assert figures["uniform"] == pytest.approx(2.8332, abs=1e-4)
    assert figures["per-pixel histograms"] == pytest.approx(1.6401, abs=1e-4)
    assert figures["model"] < 2.5  # twenty steps are enough to leave the uniform guess well behind
    for name in ("samples.png", "completions.png", "loss.png"):
        assert str(workdir / name) in shown.replace("\n", "")


def test_sample_writes_a_grid_and_arrays(workdir, tmp_path):
    assert main(["sample", "--workdir", str(workdir), "-n", "3", "--seed", "5", "--top-k", "4"]) == 0
    picture_size(workdir / "samples-seed5.png")
    for n in (3, 5):
        out = str(tmp_path / f"{n}.npy")
        assert main(["sample", "--workdir", str(workdir), "-n", str(n), "--seed", "5", "--out", out]) == 0
    three, five = np.load(tmp_path / "3.npy"), np.load(tmp_path / "5.npy")
    assert (five.dtype, five.shape) == (np.uint8, (5, 8, 8, 1))
    np.testing.assert_array_equal(three, five[:3])


def test_complete_keeps_rows_or_a_mask(workdir, tmp_path):
    digit = open_data(load_workdir(workdir).config).held_out[0]["image"]
    Image.fromarray(digit[..., 0]).save(tmp_path / "a.png")
    hole = np.zeros((8, 8), np.uint8)
    hole[3:5, 2:6] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    for option, known in (
        (["--rows", "3"], np.arange(8)[:, None] < 3),
        (["--mask", str(tmp_path / "hole.png")], hole == 0),
    ):
        out = tmp_path / "out.npy"
        command = ["complete", str(tmp_path / "a.png"), "--workdir", str(workdir), "-n", "2", "--out", str(out)]
        assert main([*command, *option]) == 0
        drawn = np.load(out)
        assert drawn.shape == (1, 2, 8, 8, 1)
        known = np.broadcast_to(known, (8, 8))
        np.testing.assert_array_equal(drawn[:, :, known], digit[None, None, known].repeat(2, axis=1))
        assert (drawn[:, :, ~known] != digit[None, None, ~known]).any()


def test_eval_prints_the_table(workdir, capsys):
    assert main(["eval", "--workdir", str(workdir), "--step", "10"]) == 0
    assert "per-pixel histograms" in capsys.readouterr().out


def test_palette_writes_swatch_and_comparison(tmp_path, capsys):
    command = [*PALETTE, str(tmp_path / "p"), "--colors", "5"]
    assert main(command) == 0
    assert re.search(r"5 colours; reconstruction PSNR \d\d\.\d\d dB", capsys.readouterr().out)
    assert np.load(tmp_path / "p" / "palette.npy").shape == (5, 1)
    for name in ("swatch.png", "before_after.png"):
        picture_size(tmp_path / "p" / name)
    assert main(command) == 2  # it is not overwritten
    assert "already" in capsys.readouterr().err


def test_lossless_files_are_measured_beside_the_model(workdir, capsys):
    assert main(["eval", "--model", str(workdir), "--lossless", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert 0.5 < measured["webp_bits_per_token"] < measured["png_bits_per_token"] < 8


@pytest.mark.usefixtures("no_report")
def test_class_names_are_stored_and_accepted(tmp_path, capsys):
    """Trained on folders of two classes, it draws by their names."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 17, (8, 8), np.uint8) * 15
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    run = str(tmp_path / "run")
    small = ["--tiny", "--train.steps", "2", "--optim.warmup-steps", "1", "--model.cond-classes", "2"]
    source = ["--data.source", f"folder:{tmp_path / 'pets'}", "--data.batch-size", "8"]
    assert main(["train", DIGITS, *small, *source, "--workdir", run]) == 0
    draw = ["sample", "--model", run, "-n", "3", "--out"]
    assert main([*draw, str(tmp_path / "a.npz"), "--classes", "dog", "cat"]) == 0
    with np.load(tmp_path / "a.npz") as file:
        assert file["arr_0"].shape == (3, 8, 8, 3)  # grey, as FID tools want it
        np.testing.assert_array_equal(file["arr_1"], [1, 0, 1])
    assert main([*draw, str(tmp_path / "b.npz"), "--classes", "1", "0"]) == 0
    with np.load(tmp_path / "a.npz") as one, np.load(tmp_path / "b.npz") as other:
        np.testing.assert_array_equal(one["arr_0"], other["arr_0"])
    capsys.readouterr()
    assert main([*draw, str(tmp_path / "c.png"), "--classes", "cow"]) == 2
    assert "cat, dog" in capsys.readouterr().err


@pytest.mark.usefixtures("no_report")
def test_a_model_that_was_always_told_the_class_does_not_draw_without_one(tmp_path, capsys):
    run = str(tmp_path / "run")
    small = ["--tiny", "--train.steps", "2", "--optim.warmup-steps", "1", "--model.cond-classes", "10"]
    assert main(["train", DIGITS, *small, "--class-dropout", "0", "--workdir", run]) == 0
    draw = ["--model", run, "--out", str(tmp_path / "a.png")]
    assert main(["sample", *draw, "--classes", "3"]) == 0
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    assert main(["complete", str(tmp_path / "b.png"), *draw, "--class", "3"]) == 0
    (tmp_path / "a.png").unlink()
    capsys.readouterr()
    for words in (["--classes", "3", "--guidance", "2"], ["--classes", "-1"]):
        assert main(["sample", *draw, *words]) == 2
        assert "class_dropout: 0 in this run" in capsys.readouterr().err
    assert main(["complete", str(tmp_path / "b.png"), *draw]) == 2
    assert "name a class for each image" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_one_png_an_image_says_how_it_was_drawn(workdir, tmp_path, capsys):
    out = tmp_path / "pictures"
    assert main(["sample", "--model", str(workdir), "-n", "3", "--seed", "5", "--top-k", "4", "--out", str(out)]) == 0
    assert main(["sample", "--model", str(workdir), "-n", "3", "--seed", "5", "--top-k", "4"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png", "2.png"]
    with Image.open(out / "2.png") as image:
        settings = json.loads(image.text["igpt"])
        assert image.size == (8, 8)
    wanted = {"model": str(workdir), "step": 20, "seed": 5, "top_k": 4, "temperature": 0.85, "index": 2}
    assert wanted.items() <= settings.items()
    with Image.open(workdir / "samples-seed5.png") as image:
        assert json.loads(image.text["igpt"])["seed"] == 5
    capsys.readouterr()
    assert main(["sample", "--model", str(workdir), "-n", "3", "--out", str(out)]) == 2  # it is not overwritten
    assert "holds something" in capsys.readouterr().err


def test_a_completion_is_the_same_in_any_company(workdir, tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / f"{name}.png")
    both, alone = tmp_path / "both.npy", tmp_path / "alone.npy"
    command = ["complete", "--model", str(workdir), "-n", "2", "--out"]
    assert main([*command, str(both), str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 0
    assert main([*command, str(alone), str(tmp_path / "b.png")]) == 0
    np.testing.assert_array_equal(np.load(both)[1], np.load(alone)[0])
    assert (np.load(both)[0] != np.load(both)[1]).any()


def test_eval_and_info_print_json(workdir, capsys):
    capsys.readouterr()
    assert main(["eval", "--model", str(workdir), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 297
    assert figures["bits"]["model"] == pytest.approx(figures["nats"]["model"] / np.log(2))
    assert main(["info", str(workdir), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layers"], facts["width"], facts["grid"], facts["step"]) == (2, 32, [8, 8], 20)
    assert facts["held_out"]["nats_per_token"] == pytest.approx(figures["nats"]["model"], abs=1e-4)
    assert main(["info", str(workdir)]) == 0
    assert re.search(r"grid +8 x 8", capsys.readouterr().out)


def test_eval_measures_the_split_that_is_asked_for(workdir, capsys):
    images = {}
    for split in ("eval", "train", "all"):
        assert main(["eval", "--model", str(workdir), "--json", "--split", split]) == 0
        images[split] = json.loads(capsys.readouterr().out)["images"]
    assert images == {"eval": 297, "train": 1500, "all": 1797}


def test_eval_measures_as_many_images_as_are_asked_for(workdir, capsys):
    nats = {}
    for count in (100, 297, 1000):
        assert main(["eval", "--model", str(workdir), "--json", "--images", str(count)]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert figures["images"] == min(count, 297)
        nats[count] = figures["nats"]
    assert nats[297] == nats[1000]
    assert nats[100]["model"] != nats[297]["model"]


@pytest.mark.usefixtures("no_report")
def test_fine_tuning_takes_the_sizes_of_the_weights(workdir, tmp_path, capsys):
    """The experiment's full form is wider and deeper than the weights; only a size that is typed counts."""
    start = ["train", DIGITS, "--init-from", str(workdir), "--train.steps", "2", "--optim.warmup-steps", "1"]
    small = [
        "--objective",
        "joint",
        "--model.clf-classes",
        "10",
        "--train.eval-images",
        "8",
        "--train.sample-every",
        "0",
    ]
    assert main([*start, *small, "--workdir", str(tmp_path / "run")]) == 0
    cfg = load_workdir(tmp_path / "run").config.model
    assert (cfg.n_layer, cfg.d_model, cfg.clf_classes) == (2, 32, 10)
    capsys.readouterr()
    assert main([*start, "--model.d-model", "64", "--workdir", str(tmp_path / "other")]) == 2
    assert "d_model is 32 there and 64 here" in capsys.readouterr().err


@pytest.mark.usefixtures("no_report")
def test_a_fine_tuning_run_continues_where_its_weights_are_gone(workdir, tmp_path, monkeypatch):
    """In the directory that is named after the experiment, too."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(workdir, "weights")
    command = ["train", DIGITS, "--tiny", "--init-from", "weights", "--train.eval-images", "8", "--train.steps"]
    assert main([*command, "6"]) == 0
    shutil.rmtree("weights")
    assert main([*command, "7"]) == 0
    assert load_workdir("runs/digits").step == 7


@pytest.mark.usefixtures("no_report")
def test_held_out_numbers_and_time_left_appear_without_a_terminal(workdir, tmp_path, capsys):
    command = ["train", DIGITS, "--tiny", "--workdir", str(tmp_path / "run")]
    assert main(command) == 0
    shown = capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "eval/nats_per_token" in line:
            assert f"step {line['step']}/20  held out: nats per token {line['eval/nats_per_token']:.4f}" in shown
        else:
            rate = f"loss {line['train/loss']:.4f}  {line['train/images_per_s']:.0f} images/s"
            assert f"step {line['step']}/20  {rate}  0:" in shown
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_experiments_describe_themselves():
    """Every experiment file has a tiny form and says its own command."""
    for path in sorted(Path(ROOT, "experiments").glob("*.py")):
        full, tiny = load_config(path), load_config(path, tiny=True)
        assert dataclasses.replace(tiny, train=full.train) != full
        assert tiny.train.steps <= 20
        assert f"igpt train {path.stem} " in path.read_text()
