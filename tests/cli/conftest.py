"""Runs that commands work on, each trained once. Tests that change one copy it."""

import contextlib
import io

import pytest

from igpt_jax import InputError
from igpt_jax.cli import app, main
from igpt_jax.cli.parse import parse
from igpt_jax.run import Report
from tests.test_layering import ROOT

DIGITS = str(ROOT / "experiments" / "digits.py")
PALETTE = ["palette", "digits", "--channels", "1", "--size", "8", "8", "--out"]


def refusal(name, *words):
    """The one line with which a command refuses its words, without what `main` does around it."""
    words = [str(word) for word in words]
    with pytest.raises(InputError) as caught:
        app._with_defaults(parse(app.COMMANDS[name], name, words, checked=False), name, words).run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """The current directory, which is empty and stays so."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="session")
def workdir(trained):
    """Ten steps of a model of one layer, without a report."""
    return trained()


@pytest.fixture(scope="session")
def quickstart(once):
    """A directory with the quickstart's `run` in its tiny form, by its command, and what is printed: `out`, `err`."""

    def command(path):
        path.mkdir()
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            assert main(["train", "digits", "--tiny", "--workdir", str(path / "run")]) == 0
        (path / "out").write_text(out.getvalue())
        (path / "err").write_text(err.getvalue())

    return once("quickstart", command)


@pytest.fixture
def no_report(monkeypatch):
    """`igpt train` ends after training: no cheap methods, no pictures. The runs that would have been reported."""
    runs = []
    monkeypatch.setattr("igpt_jax.analysis.beside.beside", lambda figures, context: figures)
    monkeypatch.setattr("igpt_jax.run.report", lambda trained, levels: runs.append(trained) or Report(trained.step, ()))
    return runs
