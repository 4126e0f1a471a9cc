"""The quickstart's run in its tiny form, for all tests of commands."""

from types import SimpleNamespace

import pytest

from igpt_jax.cli import main
from tests.test_layering import ROOT

DIGITS = str(ROOT / "experiments" / "digits.py")
PALETTE = ["palette", "digits", "--channels", "1", "--size", "8", "8", "--out"]


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """Trained by its command."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "digits", "--tiny", "--workdir", str(path)]) == 0
    return path


@pytest.fixture
def no_report(monkeypatch):
    """`igpt train` ends after training: no cheap methods, no pictures."""
    monkeypatch.setattr("igpt_jax.run.report", lambda trained: SimpleNamespace(figures=None, pictures=()))
    monkeypatch.setattr("igpt_jax.cli.train.print_figures", lambda figures: None)
