"""Runs that commands work on, each trained once. Tests that change one copy it."""

from types import SimpleNamespace

import pytest

from igpt_jax.cli import main
from tests.test_layering import ROOT

DIGITS = str(ROOT / "experiments" / "digits.py")
PALETTE = ["palette", "digits", "--channels", "1", "--size", "8", "8", "--out"]


@pytest.fixture(scope="session")
def workdir(trained):
    """Ten steps of a model of one layer, without a report."""
    return trained()


@pytest.fixture(scope="session")
def quickstart(once):
    """The quickstart in its tiny form, by its command."""

    def command(path):
        assert main(["train", "digits", "--tiny", "--workdir", str(path)]) == 0

    return once("quickstart", command)


@pytest.fixture
def no_report(monkeypatch):
    """`igpt train` ends after training: no cheap methods, no pictures."""
    monkeypatch.setattr("igpt_jax.analysis.beside.beside", lambda figures, context: figures)
    monkeypatch.setattr("igpt_jax.run.report", lambda trained, levels: SimpleNamespace(pictures=()))
