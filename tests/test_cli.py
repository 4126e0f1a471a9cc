"""The commands as a user types them: they work on a real workdir, and bad input is one line and exit code 2."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igpt_jax.cli import main
from igpt_jax.datasets import open_data
from igpt_jax.plugins import load_config
from igpt_jax.pretrained import load_workdir
from tests.test_layering import ROOT

DIGITS = str(ROOT / "experiments" / "digits.py")
PALETTE = ["palette", "digits", "--channels", "1", "--size", "8", "8", "--out"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The quickstart in its tiny form, by its command."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", DIGITS, "--tiny", "--workdir", str(path)]) == 0
    return path


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
    figures = {name: float(nats) for name, nats in re.findall(r"│ (\S[\w -]*?) +│ +([\d.]+) │", shown)}
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


def test_help_is_no_error(capsys):
    assert main(["--help"]) == 0
    for command in (["train"], ["train", DIGITS], ["sample"], ["complete"], ["eval"], ["palette"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
    assert "--optim.lr" in capsys.readouterr().out


W = "WORKDIR"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ([], ""),
        (["trian"], "trian"),
        (["train"], "no experiment file"),
        (["train", "nope.py"], "nope.py"),
        (["train", str(ROOT / "tests" / "conftest.py")], "config"),
        (["train", DIGITS, "--optim.lrr", "3"], "did you mean --optim.lr"),
        (["train", DIGITS, "--optim.lr", "fast"], "--optim.lr"),
        (["train", DIGITS, "--optim.lr", "-1"], "optim.lr"),
        (["train", DIGITS, "--compute.dtype", "float8"], "--compute.dtype"),
        (["train", DIGITS, "--data.batch-size", "-4"], "data.batch_size"),
        (["train", DIGITS, "--data.batch-size", "9"], "data.batch_size"),
        (["train", DIGITS, "--mesh.tensor", "2"], "vocab = 17 over tensor = 2"),
        (["train", DIGITS, "--wandb"], "wandb"),
        (["train", DIGITS, "--num-processes", "two"], "--num-processes"),
        (["train", DIGITS, "--palette.path", "p.npy"], "palette.path"),
        (["train", DIGITS, "--tiny", "--train.steps", "19", "--workdir", W], "beyond 19"),
        (["train", DIGITS, "--mesh.data", "3"], "mesh"),
        (["train", DIGITS, "--model.grid", "8"], "model.grid"),
        (["train", DIGITS, "--data.source", "folder:/no/such"], "/no/such"),
        (["train", DIGITS, "--data.source", "idx:/no/such"], "/no/such"),
        (["train", DIGITS, "--data.source", "zip:x"], "data.source"),
        (["train", DIGITS, "--palette.kind", "kmeans", "--model.vocab-size", "400"], "17"),
        (["train", DIGITS, "--palette.kind", "file", "--palette.path", "/no/such.npy"], "/no/such.npy"),
        (["train", DIGITS, "--workdir", W], "model.n_layer"),
        (["sample"], "--workdir"),
        (["sample", "--workdir", "/no/such"], "/no/such"),
        (["sample", "--workdir", W, "--step", "7"], "there are 10, 20"),
        (["sample", "--workdir", W, "-n", "0"], "n: "),
        (["sample", "--workdir", W, "--top-p", "7"], "top_p"),
        (["sample", "--workdir", W, "--out", "x.jpg"], "x.jpg"),
        (["sample", "--workdir", W, "--out", "/proc/nowhere/x.png"], "/proc/nowhere"),
        (["complete", "--workdir", W], "no image"),
        (["complete", "/no/such.png", "--workdir", W], "/no/such.png"),
        (["complete", DIGITS, "--workdir", W], "digits.py"),
        (["complete", "x.png", "--workdir", W, "--rows", "9"], "--rows"),
        (["complete", "x.png", "--workdir", W, "--rows", "1", "--mask", "m.png"], "--mask"),
        (["eval", "--workdir", "."], "no weights are there"),
        ([*PALETTE, "x", "--colors", "18"], "17"),
        ([*PALETTE, "x", "--process-id", "0"], "--process-id"),
        (["palette", "digits", "--out", "x", "--channels", "2"], "--channels"),
        ([*PALETTE, "/proc/nowhere/x", "--colors", "9"], "/proc/nowhere"),
        (["palette", "digits", "--out", f"{DIGITS}/x"], "is a file"),
        (["palette", "digits", "--out", "x", "--load", "/no/such.npy"], "/no/such.npy"),
    ],
    ids=lambda x: " ".join(x)[-60:] if isinstance(x, list) else None,
)
def test_bad_input_is_one_line_and_code_2(workdir, tmp_path, monkeypatch, capsys, command, named):
    monkeypatch.chdir(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in workdir.glob("*.*")}
    assert main([str(workdir) if part is W else part for part in command]) == 2
    complaint = capsys.readouterr().err.strip()
    assert "\n" not in complaint
    assert named in complaint
    assert "Traceback" not in complaint
    assert {p: p.stat().st_mtime_ns for p in workdir.glob("*.*")} == before
    assert not list(tmp_path.iterdir())


def test_a_palette_of_the_wrong_shape_is_refused(tmp_path, capsys):
    np.save(tmp_path / "p.npy", np.zeros((17, 3), np.float32))
    command = ["train", DIGITS, "--palette.kind", "file", "--palette.path", str(tmp_path / "p.npy")]
    assert main([*command, "--workdir", str(tmp_path / "run")]) == 2
    assert "17 colours of 3 channels" in capsys.readouterr().err


def test_experiments_describe_themselves():
    """Every experiment file has a tiny form and says its own command."""
    for path in sorted(Path(ROOT, "experiments").glob("*.py")):
        full, tiny = load_config(path), load_config(path, tiny=True)
        assert dataclasses.replace(tiny, train=full.train) != full
        assert tiny.train.steps <= 20
        assert f"igpt train experiments/{path.name}" in path.read_text()
