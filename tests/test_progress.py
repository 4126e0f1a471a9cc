"""Progress is reported to whoever listens, and lines with the time left appear where there is no terminal."""

import numpy as np

from igpt_jax import Palette, SamplerConfig, progress, sample
from igpt_jax.cli import progress as shown


def reports(function):
    seen = []
    with progress.listening(lambda what, done, total, numbers: seen.append((what, done, total))):
        function()
    return seen


def test_drawing_reports_every_batch(tiny):
    model, params = tiny
    draw = lambda: sample(model, params, Palette.levels(16), 5, sampler=SamplerConfig(batch_size=2))  # noqa: E731
    assert reports(draw) == [("drawing images", done, 5) for done in (0, 2, 4, 5)]


def test_fitting_a_palette_and_iterating_report_beginning_and_end():
    pixels = np.arange(40, dtype=np.uint8)[:, None]
    what = "fitting 8 colours to 40"
    assert reports(lambda: Palette.fit(pixels, 8, seed=0)) == [(what, 0, 1), (what, 1, 1)]
    assert reports(lambda: list(progress.track("ab", "x", 2))) == [("x", 0, 2), ("x", 1, 2), ("x", 2, 2)]
    assert reports(lambda: None) == []


def test_lines_are_rare_and_say_how_long_it_takes(monkeypatch, capsys):
    now = iter([0.0, 4.0, 11.0, 12.0, 30.0])
    monkeypatch.setattr(shown.time, "monotonic", lambda: next(now))
    bars = shown.Bars()
    for done in (0, 10, 20, 30, 40):
        bars.show("drawing", done, 40)
    assert capsys.readouterr().err == "drawing: 20/40, 0:00:11 left\n"
