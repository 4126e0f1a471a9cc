"""What the README promises is true: its examples run, its table is the model's, its commands exist."""

import re

import jax
import numpy as np
import pytest

from igpt_jax import ModelConfig
from igpt_jax.cli.app import COMMANDS
from igpt_jax.model import count_params
from igpt_jax.parallel.mesh import mesh_of
from igpt_jax.weights.load import convert
from tests.test_layering import ROOT
from tests.weights.made import pretrained

README = (ROOT / "README.md").read_text()


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Tiny weights where the README has its own."""
    monkeypatch.chdir(tmp_path)
    for path in ("runs/digits", "weights/igpt-s"):
        convert(pretrained(grid=(8, 8)), "workdir", path)
    return pretrained(grid=(8, 8)).model.cfg


def test_the_examples_run_and_give_what_their_comments_say(model):
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(first, names)
    image = (8, 8, names["palette"].channels)
    assert names["logits"].shape == (4, 64, model.vocab_size)
    assert names["logits"].dtype == np.float32
    assert names["new"].shape == (2, *image)
    assert names["halves"].shape == (4, 3, *image)
    assert names["states"].shape == (2, 4, 64, model.d_model)
    exec(second, names)
    assert names["mesh"].shape == {"data": 4, "fsdp": 2, "tensor": 1}
    assert mesh_of(names["loaded"].params).shape == names["mesh"].shape


def test_the_check_of_the_published_figures_prints_nats_per_token(model, capsys):
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (70, 8, 8)).astype(np.uint16)
    np.save("imagenet_teX.npy", tokens)
    exec(re.search(r'python -c "(import igpt_jax.*)"$', README, re.MULTILINE)[1], {})
    weights = pretrained(grid=(8, 8))
    x = tokens[:64].reshape(64, 64).astype(np.int32)
    log_probs = jax.nn.log_softmax(weights.model.apply({"params": weights.params}, x))
    expected = -np.take_along_axis(np.asarray(log_probs), x[..., None], axis=-1).mean()
    assert float(capsys.readouterr().out) == pytest.approx(expected, abs=1e-5)


def test_the_preset_table():
    rows = re.findall(r"\| `(\w+)` \| (\d+) \| (\d+) \| (\d+)[^|]*\| (\d+)×(\d+) \| ([\d,]+) \|", README)
    assert [row[0] for row in rows] == ["s", "m", "l", "xl"]
    for name, n_layer, d_model, n_head, y, x, params in rows:
        cfg = ModelConfig.preset(name)
        assert (cfg.n_layer, cfg.d_model, cfg.n_head) == (int(n_layer), int(d_model), int(n_head))
        assert (cfg.grid, count_params(cfg)) == ((int(y), int(x)), int(params.replace(",", "")))


def test_every_command_in_it_exists():
    used = set(re.findall(r"^ +igpt (\w+)", README, re.MULTILINE)) - {"COMMAND"}
    assert used == COMMANDS.keys()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\((docs/[^)]+)\)", README))))
def test_its_pictures_are_there(path):
    assert (ROOT / path).is_file()
