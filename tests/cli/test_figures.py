"""Figures as a table and as JSON: the model's beside those of cheap methods, and null where a number is not known."""

import json
import math

import numpy as np
import pytest

from igpt_jax.cli.figures import figures_as_dict, print_figures
from igpt_jax.evaluation import Estimate, Figure, Figures
from igpt_jax.evaluation.base import EachImage
from igpt_jax.objectives import ACCURACY, NATS


def of(values, figure=NATS, error=0.25):
    return Estimate(figure, float(np.mean(values)), error, EachImage(np.array(values, float), np.ones(len(values))))


FIGURES = Figures(
    {"nats_per_token": of([1.0, 2.0]), "accuracy": of([1, 0], ACCURACY), "order_gap": Estimate(NATS, 0.5)},
    "nats_per_token",
    np.arange(2),
    "held-out",
    {"nats_per_token": {"uniform": of([3.0, 3.0])}, "accuracy": {"nearest neighbours": of([1, 1], ACCURACY)}},
)


def test_json_has_the_model_and_cheap_methods_and_their_pairs():
    found = figures_as_dict(FIGURES, {"png_bits_per_token": 2.0})
    assert found["nats"] == {"model": 1.5, "uniform": 3.0}
    assert found["bits"]["uniform"] == pytest.approx(3 / math.log(2))
    assert found["nats_se"] == {"model": 0.25, "uniform": 0.25}
    assert found["nats_minus_model"] == {"uniform": pytest.approx([1.5, 0.5])}
    assert found["accuracies"] == {"classification head": 0.5, "nearest neighbours": 1.0}
    assert (found["order_gap"], found["png_bits_per_token"], found["images"]) == (0.5, 2.0, 2)


def test_the_table_has_them_too(capsys):
    print_figures(FIGURES, more={"png_bits_per_token": 2.0})
    shown = capsys.readouterr().out
    for words in ("2 held-out images", "nats per token", "+1.5000 ± 0.5000", "classification head", "order_gap 0.5000"):
        assert words in shown
    print_figures(Figures({"mse": of([1.0, 3.0], Figure())}, "mse", np.zeros(2), ""))
    shown = capsys.readouterr().out
    assert "2 images in 1 groups" in shown
    assert "bits" not in shown


def test_numbers_that_are_not_known_are_null(capsys):
    one = Figures({"nats_per_token": of([1.0], error=math.nan)}, "nats_per_token", np.zeros(1), "held-out")
    one.cheap["nats_per_token"] = {"uniform": of([2.0], error=math.nan)}
    print_figures(one, as_json=True)

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found["nats_se"] == {"model": None, "uniform": None}
    assert found["nats_minus_model"] == {"uniform": [1.0, None]}
