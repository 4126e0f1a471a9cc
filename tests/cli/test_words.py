"""From words to commands: help, version, completion; options in any order over the experiment's defaults."""

import re
import shutil
import subprocess
import sys

import pytest

from igpt_jax.cli import app, main
from igpt_jax.cli.parse import parse
from igpt_jax.cli.train import Train
from igpt_jax.config import ModelConfig
from igpt_jax.config_json import to_json
from igpt_jax.version import __version__
from tests.cli.conftest import DIGITS


def configured(*words):
    """The train command as it would run."""
    command = app._with_defaults(parse(Train, "train", words, checked=False), "train", list(words))
    assert isinstance(command, Train)
    return command


def test_options_may_stand_before_the_experiment():
    cfg = configured("--train.steps", "210", "--data.flip", DIGITS, "--optim.clip-norm", "None").config
    assert (cfg.name, cfg.train.steps, cfg.data.flip, cfg.optim.clip_norm) == ("digits", 210, True, None)
    assert not configured(DIGITS, "--data.no-flip").config.data.flip


def test_an_override_may_need_the_values_of_the_experiment():
    """3 divides the experiment's batch of 32 no more than the default one, but 96 images in 3 parts are fine."""
    cfg = configured(DIGITS, "--train.microbatches", "3", "--data.batch-size", "96").config
    assert (cfg.train.microbatches, cfg.data.batch_size) == (3, 96)
    assert configured(DIGITS, "--train.microbatches", "32").config.data.batch_size == 32


def test_a_preset_has_the_sizes_of_the_paper_on_the_grid_of_the_experiment():
    model = configured(DIGITS, "--model.preset", "m", "--model.n-layer", "2").config.model
    m = ModelConfig.preset("m")
    assert (model.n_layer, model.d_model, model.n_head) == (2, m.d_model, m.n_head)
    assert (model.grid, model.vocab_size) == ((8, 8), 17)


def test_weights_give_the_sizes_unless_they_are_typed(workdir, tmp_path, monkeypatch):
    """Named in the experiment or typed; with a preset; with another grid; or left out again."""
    monkeypatch.chdir(tmp_path)
    experiment = tmp_path / "tune.py"
    experiment.write_text(
        "from igpt_jax import Config, ModelConfig\n"
        f"model = ModelConfig(grid=(12, 12), vocab_size=17, n_layer=5, n_head=4, d_model=64)\n"
        "def config(tiny=False):\n"
        f"    return Config(init_from={str(workdir)!r}, init_grid='interpolate', model=model)\n"
    )
    model = configured(str(experiment)).config.model
    assert (model.n_layer, model.d_model, model.grid) == (1, 16, (12, 12))
    assert configured(str(experiment), "--init-grid", "same").config.model.grid == (8, 8)
    assert configured(str(experiment), "--model.n-layer", "3").config.model.n_layer == 3
    assert configured(str(experiment), "--model.preset", "m").config.model.n_layer == 36
    plain = configured(str(experiment), "--init-from", "None", "--init-grid", "same").config
    assert (plain.init_from, plain.model.n_layer) == (None, 5)
    joint = configured(DIGITS, "--init-from", str(workdir), "--objective", "joint", "--model.clf-classes", "10").config
    assert (joint.model.d_model, joint.model.clf_classes) == (16, 10)
    full = configured(DIGITS).config  # another run in the directory of this one, which started from no weights
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "config.json").write_text(to_json(full))
    assert configured(DIGITS, "--init-from", str(workdir), "--tiny").config.model.d_model == 16
    assert configured(DIGITS, "--init-from", str(workdir), "--init-grid", "interpolate").config.model.n_layer == 1


def test_a_fine_tuning_run_has_its_sizes_where_its_weights_are_gone(copy_of_run, tmp_path, monkeypatch):
    """In the directory that is named after the experiment, too."""
    monkeypatch.chdir(tmp_path)
    begun = configured(DIGITS, "--init-from", copy_of_run.name).config
    assert (begun.model.n_layer, begun.model.d_model) == (1, 16)
    shutil.rmtree(copy_of_run)
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "config.json").write_text(to_json(begun))
    assert configured(DIGITS, "--init-from", copy_of_run.name).config == begun


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_has_help(capsys, name):
    assert main([name, "--help"]) == 0
    assert "--quiet" in capsys.readouterr().out


def test_help_may_stand_first(capsys):
    assert main(["info", "--help"]) == main(["help", "info"]) == 0
    one, other = capsys.readouterr().out.split("usage:")[1:]
    assert one == other


def test_the_help_of_train_shows_the_values_of_the_experiment(capsys):
    assert main(["train", DIGITS, "--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"--model.n-layer INT +\(default: 3\)", shown)


def test_help_version_and_completion(capsys):
    assert main(["--help"]) == main(["help"]) == 0
    shown = capsys.readouterr().out
    for name in app.COMMANDS:
        assert f"• {name} " in shown
    for code in app.EXIT_CODES:
        assert f" {code} " in shown
    assert main([]) == 2
    capsys.readouterr()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"igpt_jax {__version__}\n"
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "complete" in script
    assert "--optim.lr" in script


def test_help_does_not_wait_for_jax():
    code = (
        "import sys; from igpt_jax.cli import main; main(['train', 'digits', '--help']); sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 0, done.stderr
