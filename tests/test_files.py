"""Addresses are refused in one line, not taken for folders; files appear whole or not at all."""

from pathlib import Path

import pytest

from igpt_jax.files import local_path, replace_file
from igpt_jax.pretrained import load_workdir, save_pretrained
from igpt_jax.weights.fetch import fetch, weight_files
from igpt_jax.weights.load import check_new, convert, inspect, load_pretrained
from tests.data.made import refused
from tests.weights.made import pretrained

ADDRESSES = ["gs://b/x", "s3://b/x", "file:///x", "hf://owner/name", Path("gs://b/x")]


@pytest.mark.parametrize("path", ["runs/a", "C:\\runs", "C:/runs", Path("/a/b"), "a:b", "owner/name@v1", "2026:/x"])
def test_paths_stay_paths(path):
    assert local_path(path, "--workdir") == Path(path)


def test_the_line_says_what_it_was_for():
    line = refused("gs://b/x", local_path, "gs://b/x", "--workdir")
    assert line == "--workdir gs://b/x: addresses are not supported yet; name a local or mounted path"


@pytest.mark.parametrize(
    "use",
    [
        load_pretrained,
        inspect,
        load_workdir,
        check_new,
        lambda address: load_pretrained("nowhere", palette=address),
        lambda address: convert(pretrained(), "huggingface", address),
        lambda address: save_pretrained(pretrained(), address),
        lambda address: fetch(weight_files("igpt-s"), address, "http://127.0.0.1:9"),
    ],
    ids=["load", "config", "workdir", "new", "palette", "convert", "save", "fetch"],
)
def test_every_door_refuses_addresses_and_makes_no_folder(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ADDRESSES:
        refused("addresses are not supported yet", use, address)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), replace_file(path) as file:
        file.writelines([b"half", None])
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.npy", b"old")]
