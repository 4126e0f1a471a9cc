"""What igpt sample and igpt complete write, from files to files, and what all commands that draw have in common."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from igpt_jax import Config, InputError, ModelConfig, SamplerConfig
from igpt_jax.cli import main
from igpt_jax.cli.complete import Complete, hole_on_grid
from igpt_jax.cli.draw import by_size
from igpt_jax.cli.output import check_result_path
from igpt_jax.config import DataConfig
from igpt_jax.sampling.restore import Restored
from tests.cli.conftest import refusal
from tests.cli.made import LEVELS, read_picture, saved, write_pictures

OWN = SamplerConfig(temperature=0.85, seed=3, particles=5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "plain": saved(root / "plain", sampler=OWN),
        "classes": saved(root / "classes", class_names=("cat", "dog"), cond_classes=2),
        "always": saved(root / "always", class_dropout=0.0, cond_classes=2),
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two small pictures, a wide one, and masks."""
    rng = np.random.default_rng(0)
    sizes = {"a": (4, 4), "b": (4, 4), "wide": (40, 80)}
    edge = np.zeros((40, 80), np.uint8)
    edge[:, :16] = 255  # outside the centre square
    return write_pictures(
        tmp_path_factory.mktemp("photos"),
        **{name: LEVELS.decode(rng.integers(0, 5, size))[..., 0] for name, size in sizes.items()},
        hole=np.pad(np.full((2, 3), 255, np.uint8), ((1, 1), (1, 0))),
        edge=edge,
        tall=edge.T,
        dark=0 * edge,
    )


def test_new_images_in_every_form_say_how_they_were_drawn(models, tmp_path):
    command = ["sample", "--model", models["plain"], "-n", "3", "--seed", "5", "--top-k", "4", "--out"]
    for name in ("a.npy", "samples-t0.9"):  # the suffix of a version is none of a file type
        assert main([*command, str(tmp_path / name)]) == 0
    images = np.load(tmp_path / "a.npy")
    assert (images.dtype, images.shape) == (np.uint8, (3, 4, 4, 1))
    files = sorted((tmp_path / "samples-t0.9").iterdir())
    assert [path.name for path in files] == ["0.png", "1.png", "2.png"]
    with Image.open(files[2]) as image:
        np.testing.assert_array_equal(np.asarray(image), images[2, ..., 0])
        settings = json.loads(image.text["igpt"])
    wanted = {"model": models["plain"], "step": 20, "seed": 5, "top_k": 4, "temperature": 0.85, "index": 2}
    assert wanted.items() <= settings.items()  # the run's own temperature, but not its seed
    assert main(["sample", "--model", models["plain"], "-n", "2"]) == 0
    with Image.open(f"{models['plain']}/samples-seed0.png") as image:
        assert min(image.size) > 64


def test_classes_are_named(models, tmp_path):
    command = ["sample", "--model", models["classes"], "-n", "3", "--out", str(tmp_path / "a.npz"), "--classes"]
    drawn = []
    for words in (["dog", "cat"], ["1", "0"]):
        assert main([*command, *words]) == 0
        with np.load(tmp_path / "a.npz") as file:
            assert file["arr_0"].shape == (3, 4, 4, 3)  # grey, as FID tools want it
            np.testing.assert_array_equal(file["arr_1"], [1, 0, 1])
            drawn.append(file["arr_0"])
    np.testing.assert_array_equal(*drawn)
    assert "cat, dog" in refusal(*command, "cow")


def test_completions_keep_rows_or_what_the_mask_leaves(models, photos, tmp_path):
    image, hole = (read_picture(photos / f"{name}.png") for name in ("a", "hole"))
    out = tmp_path / "out.npy"
    command = ["complete", str(photos / "a.png"), str(photos / "b.png"), "--model", models["plain"], "-n", "2"]
    for option, known in (
        (["--rows", "3"], np.arange(4)[:, None].repeat(4, 1) < 3),
        (["--mask", str(photos / "hole.png")], hole == 0),
    ):
        assert main([*command, *option, "--out", str(out)]) == 0
        drawn = np.load(out)
        assert drawn.shape == (2, 2, 4, 4, 1)
        np.testing.assert_array_equal(drawn[0, :, known, 0], image[known, None].repeat(2, 1))
        assert (drawn[0, :, ~known, 0] != image[~known, None]).any()
    assert main([*command, "--out", str(tmp_path / "all")]) == 0
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        f"{i}-{x}-{j}.png" for i, x in enumerate("ab") for j in (0, 1)
    }


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        ("tall", "mask and .*wide.png have different shapes .40 x 80 and 80 x 40"),
        ("dark", "leaves nothing to draw"),
        ("edge", "leaves nothing to draw"),
    ],
)
def test_a_mask_must_leave_something_to_draw(photos, mask, named):
    """A hole that the mask's own shape, or the crop to the model's grid, would make disappear."""
    command = Complete(images=(photos / "wide.png",), mask=photos / f"{mask}.png")
    with pytest.raises(InputError, match=named):
        command.read(Config(model=ModelConfig.preset("tiny"), data=DataConfig(channels=1)))


def test_a_mask_is_brought_to_the_grid_as_its_picture_is():
    """A run that crops reads the centre of the picture at its own resolution, whatever the mask's resolution is."""
    cfg = Config(model=ModelConfig.preset("tiny"), data=DataConfig(channels=1, augment="crop"))
    for size in (32, 64):
        hole = np.zeros((size, size), bool)
        hole[12 * size // 32 : 20 * size // 32, 12 * size // 32 : 20 * size // 32] = True
        assert hole_on_grid(cfg, hole, (32, 32)).all()
    whole = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, augment="none"))
    assert 4 <= hole_on_grid(whole, hole, (32, 32)).sum() <= 16
    np.testing.assert_array_equal(hole_on_grid(cfg, hole[24:32, 24:32], (32, 32)), hole[24:32, 24:32])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["sample", "MODEL", "--method", "smc"], "--method: is for igpt inpaint; leave it out"),
        (["complete", "a.png", "MODEL", "--particles", "4"], "--particles: is for igpt inpaint"),
        (["sample", "MODEL", "--lookahead", "fast"], "--lookahead"),
        (["sample", "ALWAYS", "--classes", "-1"], "class_dropout: 0 in this run"),
        (["sample", "ALWAYS", "--classes", "1", "--guidance", "2"], "leave guidance at 1"),
        (["complete", "a.png", "ALWAYS"], "name a class for each image"),
        (["inpaint", "a.png", "ALWAYS", "--brush", "1"], "name a class for each image"),
    ],
)
def test_bad_input(models, photos, monkeypatch, words, reason):
    monkeypatch.chdir(photos)
    before = sorted(photos.iterdir())
    named = {"MODEL": models["plain"], "ALWAYS": models["always"]}
    words = [part for word in words for part in (["--model", named[word]] if word in named else [word])]
    assert reason in refusal(*words, "--out", "x")
    assert sorted(photos.iterdir()) == before


def test_pictures_of_one_size_are_drawn_together():
    images = [np.full(size, i) for i, size in enumerate([(2, 3), (1, 1), (2, 3)])]
    drawn = by_size(lambda x: Restored(x, np.full(len(x), len(x))), images)
    for image, one, together in zip(images, drawn, (2, 1, 2), strict=True):
        np.testing.assert_array_equal(one.draws, image)
        assert one.mean == together


@pytest.mark.parametrize("name", ["x.jpg", "x.npy", "x.tar.gz"])
def test_another_file_type_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=re.escape(f"{name}: must end in .png, .gif, or be a directory")):
        check_result_path(tmp_path / name, (".png", ".gif"))


@pytest.mark.parametrize("name", ["x.png", "x", "samples-t0.9", "v1.2-final", "a.b.0"])
def test_a_suffix_that_begins_with_a_digit_is_part_of_a_name(tmp_path, name):
    assert check_result_path(tmp_path / name, (".png", ".gif")) == tmp_path / name
    (tmp_path / name).mkdir()
    (tmp_path / name / "a").touch()
    with pytest.raises(InputError, match="is a directory that holds something"):
        check_result_path(tmp_path / name, (".png", ".gif"))
