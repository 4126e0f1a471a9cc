"""igpt inpaint as a user types it: holes of pictures of any size, and bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from igpt_jax import InputError
from igpt_jax.cli import main
from igpt_jax.cli.inpaint import Inpaint
from igpt_jax.datasets import preprocess_for_eval, reached_by
from igpt_jax.pretrained import load_workdir
from tests.cli.conftest import refusal
from tests.cli.made import LEVELS, read_picture, saved, write_pictures


@pytest.fixture(scope="module")
def any_order(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("any") / "run", any_order=True, objective="any_order", grid=(8, 8))


@pytest.fixture(scope="module")
def raster(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("raster") / "run", grid=(8, 8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    rng = np.random.default_rng(0)
    sizes = {"a": (8, 8), "b": (13, 20), "small": (7, 8)}
    folder = write_pictures(
        tmp_path_factory.mktemp("photos"),
        **{name: rng.integers(0, 256, size, np.uint8) for name, size in sizes.items()},
        all=np.full((13, 20), 255, np.uint8),
        none=np.zeros((13, 20), np.uint8),
        other=np.full((26, 40), 255, np.uint8),
        hole=np.pad(np.full((7, 14), 255, np.uint8), ((2, 4), (3, 3))),
    )
    (folder / "corrupt.png").write_bytes((folder / "a.png").read_bytes()[:-40])
    return folder


def test_eval_takes_as_many_orders_as_asked_for(any_order, raster, monkeypatch):
    def select_images(weights, *args):
        raise InputError(f"measures {weights.config.train.eval_orders} orders")

    monkeypatch.setattr("igpt_jax.evaluation.evaluate.select_images", select_images)
    for model, words, reason in (
        (any_order, [], "measures 4 orders"),
        (any_order, ["--orders", "3"], "measures 3 orders"),
        (any_order, ["--orders", "1"], "train.eval_orders: must be at least 2"),
        (raster, ["--orders", "3"], "--orders 3: this model reads images in raster order only"),
    ):
        assert reason in refusal("eval", "--source", "digits", "--model", model, *words)


def test_only_the_hole_changes(any_order, photos, tmp_path):
    command = ["inpaint", str(photos / "b.png"), "--model", any_order, "-n", "2", "--out"]
    assert main([*command, str(tmp_path / "out"), "--mask", str(photos / "hole.png")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"0-b-{part}.png" for part in ("mean", "deviation", "draw0", "draw1")}
    before, hole = read_picture(photos / "b.png"), read_picture(photos / "hole.png")
    for part in ("mean", "draw0", "draw1"):
        with Image.open(tmp_path / "out" / f"0-b-{part}.png") as image:
            assert json.loads(image.text["igpt"])["method"] == "any_order"
            after = np.asarray(image)
        np.testing.assert_array_equal(after[hole == 0], before[hole == 0])
        assert (after[hole > 0] != before[hole > 0]).mean() > 0.5
    colors = LEVELS.decode(np.arange(5))
    assert np.isin(read_picture(tmp_path / "out" / "0-b-draw0.png")[hole > 0], colors).all()


def test_a_sheet_for_a_box_and_for_a_brush(any_order, raster, photos, tmp_path):
    pictures = [str(photos / "a.png"), str(photos / "b.png")]
    box = ["--box", "1", "2", "3", "4", "--out", str(tmp_path / "box.png")]
    assert main(["inpaint", *pictures, "--model", any_order, "-n", "2", *box]) == 0
    with Image.open(tmp_path / "box.png") as image:
        assert min(image.size) > 100
    brush = ["--brush", "3", "--particles", "8", "--out", str(tmp_path / "brush.png")]
    assert main(["inpaint", *pictures[:1], "--model", raster, "-n", "2", *brush]) == 0
    with Image.open(tmp_path / "brush.png") as image:
        assert json.loads(image.text["igpt"])["method"] == "smc"


def test_a_mask_of_the_file_is_fitted_with_the_picture(any_order):
    """What the hole's colours change at the grid is unknown, and nothing else: they change no result."""
    config = load_workdir(any_order).config
    rng = np.random.default_rng(0)
    picture, hole = rng.integers(0, 256, (31, 40), np.uint8), np.zeros((31, 40), bool)
    hole[9:14, 12:20] = True
    black, white = (
        preprocess_for_eval(config, [np.where(hole, c, picture).astype(np.uint8)[..., None]])[0] for c in (0, 255)
    )
    unknown = reached_by(config, hole)
    changed = (black != white)[..., 0]
    assert unknown[changed].all()
    assert 2 <= changed.sum() <= unknown.sum() < 20


def test_fit_brings_mask_and_picture_to_the_grid(any_order, photos):
    config = load_workdir(any_order).config
    command = Inpaint(images=(photos / "b.png",), mask=photos / "hole.png", fit=True)
    [(image, known)] = command.read(config)
    assert image.shape == (8, 8, 1)
    np.testing.assert_array_equal(known, ~reached_by(config, read_picture(photos / "hole.png") > 0))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["b.png"], "say where the hole is"),
        (["b.png", "--brush", "1", "--box", "1", "1", "1", "1"], "say where the hole is"),
        (["b.png", "--mask", "other.png"], "has another size than"),
        (["b.png", "--mask", "none.png"], "nothing of it is unknown"),
        (["b.png", "--mask", "all.png"], "all of it is unknown"),
        (["b.png", "--mask", "corrupt.png"], "cannot be read as an image"),
        (["b.png", "--box", "10", "0", "4", "2"], "is not inside"),
        (["b.png", "--box", "1", "1", "0", "2"], "is not inside"),
        (["small.png", "--brush", "1"], "8 x 7 pixels, but the model's grid has 8 x 8"),
        (["missing.png", "--brush", "1"], "cannot be read as an image"),
        (["b.png", "--brush", "-1"], "a seed is a number"),
        (["b.png", "--brush", "1", "--method", "smd"], "did you mean 'smc'"),
        (["b.png", "--brush", "1", "--method", "ardm"], "ardm needs a BERT model"),
        (["b.png", "--brush", "1", "--out", "x.npy"], "must end in .png, or be a directory"),
    ],
)
@pytest.mark.usefixtures("empty")
def test_bad_input(any_order, photos, words, reason):
    words = [photos / word if word.endswith(".png") else word for word in words]
    assert reason in refusal("inpaint", *words, "--model", any_order)
