"""Drawing over two processes: the result is that of one, process 0 writes it, and all end for bad input of one."""

import jax
import numpy as np
import pytest
from PIL import Image

from igpt_jax import Config, ImageGPT, ModelConfig, Palette, sample
from igpt_jax.config import DataConfig
from igpt_jax.training.pretrained import Pretrained, save_pretrained
from tests.processes import finish, joined

MODEL, PALETTE = ImageGPT(ModelConfig.preset("tiny", n_layer=1)), Palette.levels(16)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A workdir, and the parameters in it."""
    workdir = tmp_path_factory.mktemp("weights") / "run"
    params = jax.jit(MODEL.init)(jax.random.key(0), np.zeros((1, 64), np.int32))["params"]
    cfg = Config(model=MODEL.cfg, data=DataConfig(channels=1))
    save_pretrained(Pretrained(MODEL, params, PALETTE, cfg, None), workdir)
    return workdir, params


def of_two(args, folders):
    """One command in two processes, each in a folder of its own."""
    return finish(joined([(args, folder) for folder in folders], 1))


def test_two_processes_draw_what_one_draws_and_the_first_writes_it(weights, tmp_path):
    workdir, params = weights
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    done = of_two(["sample", "--model", workdir, "-n", 3, "--out", "x.npy"], folders)
    assert [code for code, _, _ in done] == [0, 0], done
    assert ["x.npy" in out for _, out, _ in done] == [True, False]
    np.testing.assert_array_equal(np.load(folders[0] / "x.npy"), sample(MODEL, params, PALETTE, 3))
    assert not list(folders[1].iterdir())


def test_bad_input_of_one_process_ends_both_and_is_said_once(weights, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for i, folder in enumerate(folders):
        folder.mkdir()
        Image.fromarray(np.full((8, 8), 100 * i, np.uint8)).save(folder / "photo.png")
    same = str(folders[0] / "photo.png")
    for out, photo, complaint in (
        ("x.png", "photo.png", "the images: not the same on process 0 and on 1 of 2"),
        ("/proc/nowhere/x.png", same, "--out /proc/nowhere/x.png"),
    ):
        done = of_two(["complete", photo, "--model", weights[0], "-n", "1", "--out", out], folders)
        assert [code for code, _, _ in done] == [2, 2], done
        assert complaint in done[0][2]
        assert "igpt" not in done[1][2]
    assert not any((folder / "x.png").exists() for folder in folders)
