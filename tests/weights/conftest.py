"""The server that `igpt fetch` is tested against, and a directory in Hugging Face's layout."""

import hashlib
import io
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from igpt_jax.weights import fetch as module
from igpt_jax.weights.huggingface import write_huggingface

pytest.register_assert_rewrite("tests.weights.fetch_server")  # it asserts for several files

from tests.weights.fetch_server import BIG, NAMES, PALETTE, SIZE, Server, path_of  # noqa: E402
from tests.weights.huggingface_files import read_tensors  # noqa: E402
from tests.weights.made import pretrained  # noqa: E402


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were to be waited; nobody waits."""
    seconds = []
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.fixture
def release(waits, rng, monkeypatch):
    """A server with a checkpoint of three small shards and a palette of its own."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setitem(module.SHARDS, "igpt-s", 3)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    palette = io.BytesIO()
    np.save(palette, rng.uniform(-1, 1, (512, 3)).astype(np.float32))
    monkeypatch.setattr(module, "PALETTE_SHA256", hashlib.sha256(palette.getvalue()).hexdigest())
    server.files[f"/image-gpt/color-clusters/{PALETTE}"] = palette.getvalue()
    for name in NAMES:
        server.files[path_of(name)] = rng.bytes(SIZE if name == BIG else 1000 + len(server.files))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def written(tmp_path):
    """A directory in their layout, and its tensors."""
    directory = write_huggingface(pretrained(), tmp_path / "m")
    return directory, read_tensors(directory / "model.safetensors")
