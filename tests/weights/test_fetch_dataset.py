"""igpt fetch --dataset: the release's tokenised images, downloaded, verified, read as a source and evaluated."""

import hashlib
import io
import json

import jax
import numpy as np
import pytest

from igpt_jax.cli import main
from igpt_jax.config import DataConfig
from igpt_jax.data.sources import open_source
from igpt_jax.objectives import token_nats
from igpt_jax.weights import fetch as module
from igpt_jax.weights.load import convert
from tests.data.made import labels
from tests.data.test_sources_stored import colors
from tests.weights.made import pretrained


@pytest.fixture
def images(release, monkeypatch):
    """The server with ten tokenised images of each split, too."""

    def put(path, array):
        content = io.BytesIO()
        np.save(content, array)
        release.files[f"/image-gpt/{path}"] = content.getvalue()
        return hashlib.sha256(content.getvalue()).hexdigest()

    monkeypatch.setattr(module, "PALETTE_SHA256", put("color-clusters/kmeans_centers.npy", colors()))
    for i, split in enumerate(("tr", "va", "te")):
        put(f"datasets/cifar10_{split}X.npy", np.full((10, 64), i))
        put(f"datasets/cifar10_{split}Y.npy", np.eye(10))
    return release


def fetch(server, out, *words):
    return main(["fetch", "--dataset", "cifar10", "--out", str(out), "--base-url", server.url, *words])


def test_what_is_downloaded_can_be_read(images, tmp_path, capsys):
    assert fetch(images, tmp_path / "data") == 0
    prefix = capsys.readouterr().out.strip()
    assert prefix == str(tmp_path / "data" / "cifar10")
    for eval_split, split in (("test", "eval"), ("validation", "eval"), ("test", "train")):
        source = open_source(DataConfig(source=f"tokens:{prefix}", eval_split=eval_split), split)
        assert labels(source) == list(range(10))
    before = len(images.log)
    assert fetch(images, tmp_path / "data") == 0
    assert len(images.log) == before  # everything is verified from the record


def test_some_splits(images, tmp_path):
    assert fetch(images, tmp_path / "data", "--splits", "test") == 0
    names = {path.name for path in (tmp_path / "data").glob("*.npy")}
    assert names == {"kmeans_centers.npy", "cifar10_teX.npy", "cifar10_teY.npy"}


def test_bad_input(images, tmp_path, capsys):
    for words, line in (
        ([], "name a model (igpt-s, igpt-m or igpt-l) or a --dataset"),
        (["igpt-s", "--dataset", "cifar10"], "one of the two"),
        (["--dataset", "mnist"], "mnist"),
        (["--dataset", "cifar10", "--bert"], "--bert and --step are of weights"),
        (["--dataset", "cifar10", "--step", "131000"], "--bert and --step are of weights"),
        (["igpt-s", "--splits", "test"], "--splits are of a --dataset"),
    ):
        assert main(["fetch", *words, "--base-url", images.url, "--out", str(tmp_path / "x")]) == 2
        assert line in capsys.readouterr().err
        assert not (tmp_path / "x").exists()
    del images.files["/image-gpt/datasets/cifar10_vaX.npy"]
    assert fetch(images, tmp_path / "data") == 2
    assert "cifar10_vaX.npy: the server does not give it (404); is the address right?" in capsys.readouterr().err


def test_eval_gives_the_nats_of_the_stored_ids(tmp_path, capsys):
    """With nothing between."""
    weights = pretrained(grid=(8, 8), n_layer=1)
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
