"""One door for every kind of weights, and conversions that change no bit there and back."""

import dataclasses
import itertools
import json
import pickle
import shutil
import sys

import jax
import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.cli.convert import convert_command
from igpt_jax.config import MeshConfig
from igpt_jax.interop import load
from igpt_jax.interop.huggingface import write_huggingface
from igpt_jax.interop.load import convert, load_pretrained
from igpt_jax.interop.openai import write_openai
from igpt_jax.parallel.mesh import make_mesh
from tests.interop.huggingface_files import read_tensors, save, their_model
from tests.interop.made import assert_same, assert_same_bits, pretrained
from tests.interop.test_openai import save as save_tensorflow
from tests.interop.test_openai import variables

FORMATS = ("workdir", "openai", "huggingface")


def needs(*formats):
    if "openai" in formats:
        pytest.importorskip("tensorflow")


@pytest.mark.parametrize(("first", "second"), itertools.permutations(FORMATS, 2))
def test_there_and_back(tmp_path, first, second):
    """Through two formats and out of the first again."""
    needs(first, second)
    found = pretrained()
    a = load_pretrained(convert(found, first, tmp_path / "a"))
    b = load_pretrained(convert(a, second, tmp_path / "b"))
    c = load_pretrained(convert(b, first, tmp_path / "c"))
    for again in (a, b, c):
        assert_same(found, again)


@pytest.mark.parametrize(
    ("to", "model"),
    [
        ("workdir", {"use_bias": True, "channels": 1}),
        ("workdir", {"causal": False, "clf_classes": 3}),
        ("workdir", {"cond_classes": 3, "grid": (2, 5, 10)}),
        ("huggingface", {"use_bias": True, "grid": (5, 18)}),
        ("openai", {"causal": False, "clf_classes": 3}),
    ],
    ids=str,
)
def test_what_a_format_holds_comes_back(tmp_path, to, model):
    needs(to)
    found = pretrained(**model)
    again = load_pretrained(convert(found, to, tmp_path / "a"))
    assert_same(found, again)
    assert again.step == (None if to == "huggingface" else 7)


def test_without_a_palette(tmp_path):
    found = dataclasses.replace(pretrained(), palette=None)
    for to in ("workdir", "huggingface"):
        assert_same(found, load_pretrained(convert(found, to, tmp_path / to)))


@pytest.mark.parametrize("biases", [True, False])
def test_their_files_survive_a_round_through_ours(tmp_path, biases):
    theirs = save(their_model(biases), tmp_path / "m")
    workdir = convert(load_pretrained(theirs), "workdir", tmp_path / "w")
    back = convert(load_pretrained(workdir), "huggingface", tmp_path / "b")
    before, after = (read_tensors(path / "model.safetensors") for path in (theirs, back))
    assert before.keys() == after.keys()
    for name, x in before.items():
        np.testing.assert_array_equal(x.view(np.uint32), after[name].view(np.uint32), name)


@pytest.mark.parametrize("sos", [True, False])
def test_their_variables_survive_a_round_through_ours(tmp_path, sos):
    tf = pytest.importorskip("tensorflow")
    before = variables(sos)
    prefix = save_tensorflow(tmp_path / "model.ckpt-131000", before)
    workdir = convert(load_pretrained(prefix), "workdir", tmp_path / "w")
    back = convert(load_pretrained(workdir), "openai", tmp_path / "b")
    assert back.name == "model.ckpt-131000"
    reader = tf.train.load_checkpoint(str(back))
    assert reader.get_variable_to_shape_map().keys() == before.keys()
    for name, x in before.items():
        np.testing.assert_array_equal(reader.get_tensor(name).view(np.uint32), x.view(np.uint32), name)


@pytest.mark.parametrize("kind", FORMATS)
def test_on_a_mesh_it_is_the_same(tmp_path, kind):
    needs(kind)
    found = pretrained(vocab_size=22)
    path = convert(found, kind, tmp_path / "a")
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    split = load_pretrained(path, mesh=mesh)
    assert_same(found, split)
    q_proj = split.params["h"]["attn"]["q_proj"]["w"]
    assert q_proj.sharding.shard_shape(q_proj.shape) == (2, 1, 16, 16)  # heads over tensor, width over fsdp
    assert len(q_proj.devices()) == 8
    whole = load_pretrained(path).params["h"]["attn"]["q_proj"]["w"]
    assert whole.devices() == {jax.devices()[0]}


def test_a_mesh_that_does_not_divide_is_named(tmp_path):
    path = convert(pretrained(), "huggingface", tmp_path / "a")
    with pytest.raises(InputError, match="vocab = 21 over tensor = 2"):
        load_pretrained(path, mesh=make_mesh(MeshConfig(tensor=2)))


@pytest.fixture
def palettes(tmp_path):
    """Files of 21 and of 20 colours."""
    for n in (21, 20):
        np.save(tmp_path / f"{n}.npy", np.random.default_rng(9).uniform(-1, 1, (n, 3)).astype(np.float32))
    return tmp_path / "21.npy", tmp_path / "20.npy"


@pytest.mark.parametrize("kind", FORMATS)
def test_another_palette_may_be_named(tmp_path, palettes, kind):
    needs(kind)
    path = convert(pretrained(), kind, tmp_path / "a")
    np.testing.assert_array_equal(load_pretrained(path, palette=palettes[0]).palette.centers, np.load(palettes[0]))
    with pytest.raises(InputError, match="made for 21 colours, and the palette has 20"):
        load_pretrained(path, palette=palettes[1])


def test_all_ways_to_name_a_tensorflow_checkpoint(tmp_path):
    pytest.importorskip("tensorflow")
    found = pretrained()
    prefix = write_openai(found, tmp_path / "o")
    (tmp_path / "o" / "model.ckpt-7.meta").touch()
    for path in (prefix, str(prefix), prefix.parent, *sorted(prefix.parent.glob("model.ckpt-7.*"))):
        assert_same(found, load_pretrained(path))
    shutil.copy(f"{prefix}.index", tmp_path / "o" / "model.ckpt-9.index")
    with pytest.raises(InputError, match=r"name one of .*model\.ckpt-7, .*model\.ckpt-9"):
        load_pretrained(prefix.parent)


def test_what_does_not_apply_is_refused(tmp_path):
    theirs = convert(pretrained(), "huggingface", tmp_path / "h")
    ours = convert(pretrained(), "workdir", tmp_path / "w")
    with pytest.raises(InputError, match="--step"):
        load_pretrained(theirs, step=7)
    with pytest.raises(InputError, match="--grid"):
        load_pretrained(ours, grid=(10, 10))
    with pytest.raises(InputError, match="no checkpoint at step 8"):
        load_pretrained(ours, step=8)
    assert load_pretrained(ours, step=7).step == 7


@pytest.mark.parametrize("name", ["none", "empty", "text.txt", "a/b/c", ".", "owner/na me"])
def test_nothing_of_the_kind(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    with pytest.raises(InputError, match="wanted is a workdir") as caught:
        load_pretrained(name)
    assert "\n" not in str(caught.value)


class Trap:
    """Unpickling it is noticed."""

    def __reduce__(self):
        return sys.exit, ("a pickle was opened",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_pickles_are_never_opened(tmp_path, name):
    directory = write_huggingface(pretrained(), tmp_path / "m")
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(pickle.dumps(Trap()))
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(directory / name, bare / name)
    for path in (directory, directory / name, bare):
        with pytest.raises(InputError, match=r"can run code when it is opened.*NAME@REVISION.*save_pretrained"):
            load_pretrained(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with one repository, of which it remembers the requests."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    snapshot = write_huggingface(pretrained(), tmp_path / "cache" / "0a1b2c")
    asked = []

    def snapshot_download(repo_id, *, revision=None, allow_patterns=None):
        asked.append((repo_id, revision, tuple(allow_patterns)))
        if repo_id in FAILURES:
            raise FAILURES[repo_id](huggingface_hub.errors)
        if revision == "gone":
            raise without_response(huggingface_hub.errors.RevisionNotFoundError)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return snapshot, asked


def without_response(cls):
    return cls.__new__(cls)


FAILURES = {
    "no/such": lambda errors: without_response(errors.RepositoryNotFoundError),
    "no/key": lambda errors: without_response(errors.GatedRepoError),
    "no/network": lambda errors: ConnectionError("[Errno -2] Name or service\nnot known"),
    "no/cache": lambda errors: errors.LocalEntryNotFoundError("cannot find it\nin the cache"),
    "no/Xname": lambda errors: errors.HFValidationError("bad name"),
}


def test_names_on_the_hub(hub):
    _, asked = hub
    patterns = ("*.json", "*.safetensors")
    found = load_pretrained("owner/imagegpt-tiny")
    assert_same(pretrained(), found)
    assert found.config.name == "imagegpt-tiny"
    assert load_pretrained("owner/imagegpt-tiny@refs/pr/3").config.name == "imagegpt-tiny"
    assert asked == [
        ("owner/imagegpt-tiny", None, patterns),
        ("owner/imagegpt-tiny", "refs/pr/3", patterns),
    ]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("no/such", "no such|no public repository"),
        ("no/key", "consent"),
        ("no/network", "no answer.*Name or service"),
        ("no/cache", "no answer.*cannot find it"),
        ("no/Xname", "bad name"),
        ("owner/m@gone", "no revision 'gone'"),
    ],
)
def test_a_hub_that_gives_nothing(hub, name, named):
    with pytest.raises(InputError, match=named) as caught:
        load_pretrained(name)
    assert "\n" not in str(caught.value)


def test_a_repository_of_pickles(hub):
    snapshot, _ = hub
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no safetensors.*NAME@REVISION.*save_pretrained"):
        load_pretrained("owner/m")


def test_without_huggingface_hub_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install -e '.\[hf\]'"):
        load_pretrained("owner/m")


def test_convert_writes_all_or_nothing(tmp_path, monkeypatch):
    found = pretrained()
    for error, said in (
        (OSError(28, "No space left on device"), "--out .*No space left on device"),
        (KeyboardInterrupt(), None),
        (InputError("x"), "^x$"),
    ):

        def half(source, directory, error=error):
            directory.mkdir(parents=True)
            (directory / "half").touch()
            assert directory.name.startswith(".a.")
            assert directory.parent == tmp_path
            raise error

        monkeypatch.setitem(load._WRITERS, "huggingface", half)
        expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError
        with pytest.raises(expected, match=said):
            convert(found, "huggingface", tmp_path / "a")
        assert not list(tmp_path.iterdir())


def test_convert_overwrites_nothing(tmp_path):
    found = pretrained()
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "full", "file/below", "dangling"):
        with pytest.raises(InputError, match=f"--out .*{name}"):
            convert(found, "huggingface", tmp_path / name)
    with pytest.raises(InputError, match="workdir, openai, huggingface"):
        convert(found, "onnx", tmp_path / "new")
    assert sorted(tmp_path.rglob("*")) == before
    assert convert(found, "huggingface", tmp_path / "empty") == tmp_path / "empty"
    assert_same(found, load_pretrained(tmp_path / "empty"))


def test_the_command(tmp_path, capsys, palettes, monkeypatch):
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    found = dataclasses.replace(pretrained(grid=(5, 18)), palette=None)
    prefix = write_openai(found, tmp_path / "o")
    options = ["--grid", "5", "18", "--palette", str(palettes[0])]
    convert_command([str(prefix), "--to", "huggingface", "--out", "h", *options])
    convert_command(["h", "--to", "workdir", "--out", "w"])
    convert_command(["w", "--to", "openai", "--out", "new/o", "--step", "0"])
    printed = capsys.readouterr().out.split()
    assert printed == ["h", "w", "new/o/model.ckpt-0"]
    again = load_pretrained(printed[-1], grid=(5, 18))
    assert_same_bits(found.params, again.params)
    np.testing.assert_array_equal(again.palette.centers, np.load(palettes[0]))
    assert json.loads((tmp_path / "h" / "preprocessor_config.json").read_text())["size"] == {"height": 5, "width": 18}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20.npy", "21.npy", "h", "new", "o", "w"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["nowhere", "--to", "workdir", "--out", "x"], "nowhere: no such file"),
        (["nowhere", "--to", "workdir", "--out", "."], "--out .: holds something"),
        (["nowhere", "--to", "onnx", "--out", "x"], "--to"),
        (["nowhere", "--to", "workdir"], "--out"),
        (["a", "--to", "workdir", "--out", "x", "--grid", "9"], "--grid"),
    ],
    ids=str,
)
def test_a_command_that_cannot_be_done(tmp_path, monkeypatch, options, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    with pytest.raises(InputError) as caught:
        convert_command(options)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["here"]
