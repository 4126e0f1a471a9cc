"""igpt restore as a user types it: pictures of their own size, figures beside the originals, and bad input."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from igpt_jax import restore
from igpt_jax.cli import main
from igpt_jax.evaluation.quality import psnr_of_each
from igpt_jax.pretrained import load_workdir
from tests.cli.conftest import DIGITS, refusal
from tests.cli.made import read_picture, saved, write_pictures

RESTORE = ["--objective", "restore", "--model.prefix-slots", "16", "--model.prefix-values", "4"]


@pytest.fixture(scope="module")
def restorer(tmp_path_factory):
    """A model for noisy digits."""
    data = {"degrade": ("gaussian:0.2",)}
    path = tmp_path_factory.mktemp("restore") / "run"
    return saved(path, grid=(8, 8), objective="restore", data=data, prefix_slots=16, prefix_values=4)


@pytest.fixture(scope="module")
def raster(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("raster") / "run", grid=(8, 8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Clean pictures with their noisy ones, and one that cannot be read."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, size in {"a": (8, 8), "b": (8, 13), "small": (7, 8)}.items():
        clean = np.sort(rng.integers(0, 256, size, np.uint8), axis=1)
        noisy = np.clip(clean + rng.normal(0, 40, size), 0, 255).astype(np.uint8)
        write_pictures(folder, **{name: clean, f"{name}-noisy": noisy})
    (folder / "corrupt.png").write_bytes((folder / "a.png").read_bytes()[:-40])
    return folder


def test_pictures_keep_their_size_and_are_compared(restorer, photos, tmp_path, capsys):
    names = [str(photos / f"{name}-noisy.png") for name in "ab"]
    originals = [str(photos / f"{name}.png") for name in "ab"]
    out = tmp_path / "out"
    command = ["restore", *names, "--model", restorer, "-n", "2", "--seed", "3", "--out", str(out)]
    assert main([*command, "--json", "--original", *originals]) == 0
    shown = json.loads(capsys.readouterr().out)
    files = {path.stem: read_picture(path) for path in out.iterdir()}
    assert files.keys() == {f"{i}-{x}-noisy-{y}" for i, x in enumerate("ab") for y in ("mean", "draw0", "draw1")}
    assert files["1-b-noisy-draw1"].shape == (8, 13)
    weights = load_workdir(restorer)
    sampler = dataclasses.replace(weights.config.sampler, seed=3)
    clean, noisy = (read_picture(photos / f"b{x}.png")[None, ..., None] for x in ("", "-noisy"))
    expected = restore(weights.model, weights.params, weights.colors, noisy, 2, sampler=sampler)
    np.testing.assert_array_equal(files["1-b-noisy-mean"], expected.mean[0, ..., 0])
    np.testing.assert_array_equal(files["1-b-noisy-draw1"], expected.draws[0, 1, ..., 0])
    psnr = shown["images"][1]["psnr"]
    assert psnr["degraded"] == pytest.approx(psnr_of_each(clean, noisy)[0])
    assert psnr["mean"] == pytest.approx(psnr_of_each(clean, expected.mean)[0])
    assert len(psnr["draws"]) == len(shown["images"][1]["ssim"]["draws"]) == 2


def test_clean_pictures_are_degraded_to_try_it(restorer, photos, tmp_path, capsys):
    out = tmp_path / "x.png"
    command = ["restore", str(photos / "small.png"), str(photos / "b.png"), "--model", restorer, "-n", "2"]
    assert main([*command, "--fit", "--degrade", "gaussian:0.2", "--out", str(out)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == str(out)
    assert len(shown) == 3
    assert "degraded" in shown[1]
    with Image.open(out) as image:
        assert "gaussian:0.2" in image.text["igpt"]
        assert image.size[0] > 4 * 64


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "no image named"),
        (["corrupt.png"], "corrupt.png"),
        (["no.png"], "no.png"),
        (["small.png"], "small.png: 8 x 7 pixels, but the model's grid has 8 x 8"),
        (["a-noisy.png", "--original", "b.png"], "b.png: has another size than its degraded picture (13 x 8 and 8 x 8"),
        (["a-noisy.png", "--original", "a.png", "b.png"], "names 2 pictures for 1"),
        (["a-noisy.png", "--original", "corrupt.png"], "corrupt.png"),
        (["a.png", "--degrade", "blur", "--original", "a.png"], "leave out --original"),
        (["a.png", "--degrade", "blurr"], "--degrade: 'blurr': no degradation 'blurr'; did you mean 'blur'"),
        (["a.png", "--json"], "name them with --original"),
        (["a.png", "-n", "0"], "-n 0"),
        (["a.png", "--out", "x.npy"], "must end in .png"),
        (["a.png", "--order", "random"], "'random' is not possible for restorations"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_bad_input(restorer, photos, monkeypatch, words, named):
    monkeypatch.chdir(photos)
    before = sorted(photos.iterdir())
    assert named in refusal("restore", *words, "--model", restorer)
    assert sorted(photos.iterdir()) == before


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("command", [["restore", "PICTURE"], ["sample"], ["complete", "PICTURE"]])
def test_other_models_do_not_restore_and_this_one_does_nothing_else(restorer, photos, raster, command):
    words = [photos / "a.png" if word == "PICTURE" else word for word in command]
    model = raster if command[0] == "restore" else restorer
    assert "restore" in refusal(*words, "--model", model, "--out", "x.png")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data.degrade", "blurr"], "data.degrade: 'blurr': no degradation"),
        (["--data.degrade", "blur"], "data.degrade: objective 'ar' does not read degraded images"),
        (RESTORE, "data.degrade: is empty"),
        (["--objective", "restore", "--data.degrade", "blur"], "reads no degraded picture"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
@pytest.mark.usefixtures("empty")
def test_degradation_and_objective_go_together(words, named):
    assert named in refusal("train", DIGITS, *words)
