"""What the README promises is true: its example runs, its table is the model's, its commands exist."""

import re

import numpy as np
import pytest

from igpt_jax import ModelConfig
from igpt_jax.cli.app import COMMANDS
from igpt_jax.model import count_params
from tests.test_layering import ROOT

README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_gives_what_its_comments_say():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) <= 10
    names: dict = {}
    exec(code, names)
    assert names["logits"].shape == (4, 64, 16)
    assert names["logits"].dtype == np.float32
    assert names["new"].shape == (2, 8, 8, 3)
    assert names["halves"].shape == (4, 3, 8, 8, 3)


def test_the_preset_table():
    rows = re.findall(r"\| `(\w+)` \| (\d+) \| (\d+) \| (\d+)[^|]*\| (\d+)×(\d+) \| ([\d,]+) \|", README)
    assert [row[0] for row in rows] == ["s", "m", "l", "xl"]
    for name, n_layer, d_model, n_head, y, x, params in rows:
        cfg = ModelConfig.preset(name)
        assert (cfg.n_layer, cfg.d_model, cfg.n_head) == (int(n_layer), int(d_model), int(n_head))
        assert (cfg.grid, count_params(cfg)) == ((int(y), int(x)), int(params.replace(",", "")))


def test_every_command_in_it_exists():
    used = set(re.findall(r"^ +igpt (\w+)", README, re.MULTILINE))
    assert used == COMMANDS.keys()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\((docs/[^)]+)\)", README))))
def test_its_pictures_are_there(path):
    assert (ROOT / path).is_file()
