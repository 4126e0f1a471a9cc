"""igpt inpaint as a user types it: holes of pictures of any size, and bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from igpt_jax.cli import main
from igpt_jax.datasets import preprocess_for_eval, reached_by
from igpt_jax.pretrained import load_workdir
from tests.cli.conftest import DIGITS


@pytest.fixture(scope="module")
def any_order(tmp_path_factory, workdir):
    """A model of any order that began with the quickstart's, trained by its command."""
    path = tmp_path_factory.mktemp("any") / "run"
    objective = ["--objective", "any_order", "--model.any-order", "--init-from", str(workdir)]
    steps = ["--train.steps", "5", "--train.eval-every", "5", "--train.eval-images", "5", "--train.eval-orders", "2"]
    assert main(["train", DIGITS, "--tiny", *objective, *steps, "--workdir", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, size in {"a": (8, 8), "b": (13, 20), "small": (7, 8)}.items():
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"{name}.png")
    for name, size, value in (("all", (13, 20), 255), ("none", (13, 20), 0), ("other", (26, 40), 255)):
        Image.fromarray(np.full(size, value, np.uint8)).save(folder / f"{name}.png")
    hole = np.zeros((13, 20), np.uint8)
    hole[2:9, 3:17] = 255
    Image.fromarray(hole).save(folder / "hole.png")
    (folder / "corrupt.png").write_bytes((folder / "a.png").read_bytes()[:-40])
    return folder


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_training_measures_orders_and_holes(any_order):
    lines = [json.loads(line) for line in (any_order / "metrics.jsonl").read_text().splitlines()]
    [last] = [line for line in lines if "eval/raster_nats" in line]
    assert last["eval/order_gap"] == pytest.approx(last["eval/random_nats"] - last["eval/raster_nats"])
    assert {"eval/brush_nats_clamp", "eval/centre_nats_known_first", "eval/swap_gap", "eval/order_mixture_nats"} <= set(
        last
    )
    assert (any_order / "inpaintings.png").exists()


def test_eval_takes_as_many_orders_as_asked_for(any_order, workdir, capsys):
    figures = []
    for words in ([], ["--orders", "3"]):
        assert main(["eval", "--model", str(any_order), "--json", *words]) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[0]["raster_nats"] == figures[1]["raster_nats"]
    assert figures[0]["random_nats"] != figures[1]["random_nats"]
    assert main(["eval", "--model", str(workdir), "--orders", "3"]) == 2
    assert "--orders 3: this model reads images in raster order only" in capsys.readouterr().err
    assert main(["eval", "--model", str(any_order), "--orders", "1"]) == 2
    assert "train.eval_orders: must be at least 2" in capsys.readouterr().err


def test_only_the_hole_changes(any_order, photos, tmp_path):
    command = ["inpaint", str(photos / "b.png"), "--model", str(any_order), "-n", "2", "--out"]
    assert main([*command, str(tmp_path / "out"), "--mask", str(photos / "hole.png")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"0-b-{part}.png" for part in ("mean", "deviation", "draw0", "draw1")}
    before, hole = read(photos / "b.png"), read(photos / "hole.png")
    for part in ("mean", "draw0", "draw1"):
        with Image.open(tmp_path / "out" / f"0-b-{part}.png") as image:
            assert json.loads(image.text["igpt"])["method"] == "any_order"
            after = np.asarray(image)
        np.testing.assert_array_equal(after[hole == 0], before[hole == 0])
        assert (after[hole > 0] != before[hole > 0]).mean() > 0.5
    colors = load_workdir(any_order).colors.decode(np.arange(17))
    assert np.isin(read(tmp_path / "out" / "0-b-draw0.png")[hole > 0], colors).all()


def test_a_sheet_for_a_box_and_for_a_brush(any_order, workdir, photos, tmp_path):
    pictures = [str(photos / "a.png"), str(photos / "b.png")]
    box = ["--box", "1", "2", "3", "4", "--out", str(tmp_path / "box.png")]
    assert main(["inpaint", *pictures, "--model", str(any_order), "-n", "2", *box]) == 0
    with Image.open(tmp_path / "box.png") as image:
        assert min(image.size) > 100
    brush = ["--brush", "3", "--particles", "8", "--out", str(tmp_path / "brush.png")]
    assert main(["inpaint", *pictures[:1], "--model", str(workdir), "-n", "2", *brush]) == 0
    with Image.open(tmp_path / "brush.png") as image:
        assert json.loads(image.text["igpt"])["method"] == "smc"


def test_a_mask_of_the_file_is_fitted_with_the_picture(any_order, tmp_path):
    """What the hole's colours change at the grid is unknown, and nothing else: they change no result."""
    config = load_workdir(any_order).config
    rng = np.random.default_rng(0)
    picture, hole = rng.integers(0, 256, (31, 40), np.uint8), np.zeros((31, 40), bool)
    hole[9:14, 12:20] = True
    Image.fromarray(np.where(hole, 255, 0).astype(np.uint8)).save(tmp_path / "hole.png")
    results = []
    for name, colour in (("black", 0), ("white", 255)):
        Image.fromarray(np.where(hole, colour, picture).astype(np.uint8)).save(tmp_path / f"{name}.png")
        words = [str(tmp_path / f"{name}.png"), "--fit", "--mask", str(tmp_path / "hole.png"), "-n", "1"]
        assert main(["inpaint", *words, "--model", str(any_order), "--out", str(tmp_path / name)]) == 0
        results.append(read(tmp_path / name / f"0-{name}-draw0.png"))
    np.testing.assert_array_equal(*results)
    black, white = (
        preprocess_for_eval(config, [np.where(hole, c, picture).astype(np.uint8)[..., None]])[0] for c in (0, 255)
    )
    unknown = reached_by(config, hole)
    changed = (black != white)[..., 0]
    assert unknown[changed].all()
    assert 2 <= changed.sum() <= unknown.sum() < 20


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
def test_bad_input_is_one_line(any_order, photos, words, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [str(photos / word) if word.endswith(".png") else word for word in words]
    assert main(["inpaint", *words, "--model", str(any_order)]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
