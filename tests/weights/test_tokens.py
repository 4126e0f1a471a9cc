"""Released weights on released tokens: the figure is that of the ids themselves, with nothing between."""

import json

import jax
import numpy as np
import pytest

from igpt_jax.cli import main
from igpt_jax.objectives import token_nats
from igpt_jax.weights.load import convert
from tests.weights.made import pretrained


def test_eval_gives_the_nats_of_the_stored_ids(tmp_path, capsys):
    weights = pretrained(grid=(8, 8))
    model = convert(weights, "huggingface", tmp_path / "hf")
    weights.colors.save(tmp_path / "kmeans_centers.npy")
    rng = np.random.default_rng(0)
    ids = {name: rng.integers(0, weights.colors.size, (9, 64)) for name in ("tr", "te")}
    for name, array in ids.items():
        np.save(tmp_path / f"imagenet_{name}X.npy", array.astype(np.int64))
    words = ["--model", str(model), "--source", f"tokens:{tmp_path}/imagenet", "--json"]
    assert main(["eval", *words]) == 0
    figures = json.loads(capsys.readouterr().out)
    logits = jax.jit(weights.model.apply)({"params": weights.params}, ids["te"].astype(np.int32))
    assert figures["nats"]["model"] == pytest.approx(float(token_nats(logits, ids["te"]).mean()), abs=1e-5)
    assert figures["images"] == 9
