"""Loading every kind of weights, and conversions that change no bit there and back."""

import dataclasses
import itertools
import json
import pickle
import re
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.cli import main
from igpt_jax.config import MeshConfig
from igpt_jax.parallel.mesh import make_mesh, mesh_of
from igpt_jax.weights import load
from igpt_jax.weights.huggingface import write_huggingface
from igpt_jax.weights.load import convert, inspect, load_pretrained
from igpt_jax.weights.openai import write_openai
from tests.conftest import F32_ATOL
from tests.data.made import refused
from tests.weights.made import assert_same, assert_same_bits, pretrained, tokens
from tests.weights.test_openai import save as save_tensorflow
from tests.weights.test_openai import variables

FORMATS = ("workdir", "openai", "huggingface")


def needs(*formats):
    if "openai" in formats:
        pytest.importorskip("tensorflow")


@pytest.mark.parametrize(("first", "second"), itertools.combinations(FORMATS, 2))
def test_there_and_back(tmp_path, first, second):
    """Through two formats and out of the first again."""
    needs(first, second)
    weights = pretrained()
    a = load_pretrained(convert(weights, first, tmp_path / "a"))
    b = load_pretrained(convert(a, second, tmp_path / "b"))
    c = load_pretrained(convert(b, first, tmp_path / "c"))
    for again in (a, b, c):
        assert_same(weights, again)


@pytest.mark.parametrize(
    ("to", "model"),
    [
        ("workdir", {"use_bias": True, "channels": 1}),
        ("workdir", {"causal": False, "clf_classes": 3}),
        ("workdir", {"cond_classes": 3, "grid": (2, 5, 10)}),
        ("huggingface", {"use_bias": True, "grid": (5, 18)}),
        ("openai", {"causal": False, "clf_classes": 3}),
        ("huggingface", {"channels": 1, "grid": (6, 9)}),
        ("huggingface", {"no_palette": True, "grid": (6, 9)}),
        ("workdir", {"no_palette": True}),
        ("openai", {"channels": 1}),
    ],
    ids=str,
)
def test_what_a_format_holds_comes_back_and_is_known_without_reading_weights(tmp_path, monkeypatch, to, model):
    needs(to)
    weights = pretrained(**{key: value for key, value in model.items() if key != "no_palette"})
    weights = dataclasses.replace(weights, palette=None) if "no_palette" in model else weights
    path = convert(weights, to, tmp_path / "a")
    again = load_pretrained(path)
    assert_same(weights, again)
    assert again.config.data.channels == weights.config.data.channels
    assert again.step == (None if to == "huggingface" else 7)
    monkeypatch.setattr("igpt_jax.weights.load.read_params", None)
    monkeypatch.setattr("igpt_jax.pretrained.read_weights", None)
    seen = inspect(str(path))
    assert (seen.config, seen.step, seen.class_names) == (again.config, again.step, again.class_names)
    assert (seen.palette is None) == (again.palette is None)
    assert seen.palette is None or seen.palette.same_as(again.palette)
    shapes, arrays = (jax.tree.map(lambda x: (x.shape, x.dtype), each.params) for each in (seen, again))
    assert shapes == arrays


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
    weights = pretrained(vocab_size=22)
    path = convert(weights, kind, tmp_path / "a")
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    split = load_pretrained(path, mesh=mesh)
    assert_same(weights, split)
    q_proj = split.params["h"]["attn"]["q_proj"]["w"]
    assert q_proj.sharding.shard_shape(q_proj.shape) == (2, 1, 16, 16)  # heads over tensor, width over fsdp
    assert len(q_proj.devices()) == 8
    whole = load_pretrained(path).params["h"]["attn"]["q_proj"]["w"]
    assert whole.devices() == {jax.devices()[0]}


@pytest.mark.parametrize("kind", ["workdir", "huggingface"])
def test_on_a_mesh_of_ones_own_it_computes_the_same(tmp_path, kind):
    """`jax.make_mesh` with its default axes, of type Explicit; while such a mesh is set it is refused."""
    weights = pretrained(vocab_size=22, n_layer=1, grid=(4, 4))
    path = convert(weights, kind, tmp_path / "a")
    x = tokens(weights.model.cfg)
    expected = jax.jit(weights.model.apply)({"params": weights.params}, x)
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
    split = load_pretrained(path, mesh=mesh)
    with jax.set_mesh(mesh):
        refused("axes of type Explicit", load_pretrained, path, mesh=mesh)
        whole = load_pretrained(path)
    assert mesh_of(whole.params) is None
    apply = jax.jit(split.model.apply)
    np.testing.assert_allclose(apply({"params": split.params}, x), expected, atol=F32_ATOL)
    with jax.set_mesh(mesh_of(split.params)):
        np.testing.assert_allclose(apply({"params": split.params}, x), expected, atol=F32_ATOL)
    refused("no use for the axis model", load_pretrained, path, mesh=jax.make_mesh((2, 4), ("data", "model")))


def test_a_mesh_that_does_not_divide_is_named(tmp_path):
    path = convert(pretrained(), "huggingface", tmp_path / "a")
    refused("vocab = 21 over tensor = 2", load_pretrained, path, mesh=make_mesh(MeshConfig(tensor=2)))


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
    refused("made for 21 colours, and the palette has 20", load_pretrained, path, palette=palettes[1])


def test_all_ways_to_name_a_tensorflow_checkpoint(tmp_path):
    pytest.importorskip("tensorflow")
    weights = pretrained()
    prefix = write_openai(weights, tmp_path / "o")
    (tmp_path / "o" / "model.ckpt-7.meta").touch()
    for path in (prefix, str(prefix), prefix.parent, *sorted(prefix.parent.glob("model.ckpt-7.*"))):
        assert_same(weights, load_pretrained(path))
    shutil.copy(f"{prefix}.index", tmp_path / "o" / "model.ckpt-9.index")
    refused(r"name one of .*model\.ckpt-7, .*model\.ckpt-9", load_pretrained, prefix.parent)


@pytest.mark.parametrize("use", [load_pretrained, inspect])
def test_step_and_grid_are_used_or_refused(tmp_path, use):
    ours = convert(pretrained(), "workdir", tmp_path / "w")
    assert use(ours, step=7).config.model == pretrained().model.cfg
    theirs = convert(pretrained(grid=(5, 18)), "huggingface", tmp_path / "h")
    (theirs / "preprocessor_config.json").unlink()
    assert use(theirs, grid=(5, 18)).config.model.grid == (5, 18)
    refused("--grid", use, theirs)
    refused("90 positions are not 9 x 9", use, theirs, grid=(9, 9))
    refused("--step", use, theirs, step=7)
    refused("--grid", use, ours, grid=(10, 10))
    refused("no checkpoint at step 8", use, ours, step=8)
    refused("name a workdir", use, tmp_path / "none")


@pytest.mark.parametrize("name", ["empty", "text.txt", "a/b/c", ".", "owner/na me"])
def test_nothing_of_the_kind(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    refused("name a workdir", load_pretrained, name)


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
        refused(r"can run code when it is opened.*NAME@REVISION.*save_pretrained", load_pretrained, path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with one repository, and the requests it got; it raises the first of `errors`, if there is one."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    hub = SimpleNamespace(snapshot=write_huggingface(pretrained(), tmp_path / "cache" / "0a1b2c"), asked=[], errors=[])

    def snapshot_download(repo_id, *, revision=None, allow_patterns=None):
        hub.asked.append((repo_id, revision, tuple(allow_patterns)))
        for error in hub.errors:
            raise error
        return str(hub.snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return hub


def test_names_on_the_hub(hub):
    patterns = ("*.json", "*.safetensors")
    weights = load_pretrained("owner/imagegpt-tiny")
    assert_same(pretrained(), weights)
    assert weights.config.name == "imagegpt-tiny"
    assert load_pretrained("owner/imagegpt-tiny@refs/pr/3").config.name == "imagegpt-tiny"
    assert hub.asked == [("owner/imagegpt-tiny", revision, patterns) for revision in (None, "refs/pr/3")]


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("RepositoryNotFoundError", "no public repository"),
        ("GatedRepoError", "consent"),
        ("RevisionNotFoundError", "no revision 'gone'"),
        ("LocalEntryNotFoundError", "no answer.*first line"),
        ("HFValidationError", "no answer.*first line"),
        (ConnectionError, "no answer.*first line"),
    ],
)
def test_a_hub_that_gives_nothing(hub, kind, named):
    from huggingface_hub import errors

    kind = getattr(errors, kind) if isinstance(kind, str) else kind
    error = kind.__new__(kind)  # some want a response to be made
    error.args = ("first line\nsecond line",)
    hub.errors.append(error)
    refused(named, load_pretrained, "owner/m@gone")


def test_a_repository_of_pickles(hub):
    (hub.snapshot / "model.safetensors").unlink()
    refused(r"no safetensors.*NAME@REVISION.*save_pretrained", load_pretrained, "owner/m")


def test_without_huggingface_hub_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(r"pip install 'igpt_jax\[hf\]'", load_pretrained, "owner/m")


def test_convert_writes_all_or_nothing(tmp_path, monkeypatch):
    weights = pretrained()
    for error, message in (
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
        with pytest.raises(expected, match=message):
            convert(weights, "huggingface", tmp_path / "a")
        assert not list(tmp_path.iterdir())


def test_convert_overwrites_nothing(tmp_path):
    weights = pretrained()
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "full", "file/below", "dangling"):
        refused(f"--out .*{name}", convert, weights, "huggingface", tmp_path / name)
    refused("workdir, openai, huggingface", convert, weights, "onnx", tmp_path / "new")
    assert sorted(tmp_path.rglob("*")) == before
    assert convert(weights, "huggingface", tmp_path / "empty") == tmp_path / "empty"
    assert_same(weights, load_pretrained(tmp_path / "empty"))


def test_the_command(tmp_path, capsys, palettes, monkeypatch):
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    weights = dataclasses.replace(pretrained(grid=(5, 18)), palette=None)
    prefix = write_openai(weights, tmp_path / "o")
    options = ["--grid", "5", "18", "--palette", str(palettes[0])]
    assert main(["convert", str(prefix), "--to", "huggingface", "--out", "h", *options]) == 0
    assert main(["convert", "h", "--to", "workdir", "--out", "w"]) == 0
    assert main(["convert", "w", "--to", "openai", "--out", "new/o", "--step", "0"]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == ["h", "w", "new/o/model.ckpt-0"]
    again = load_pretrained(printed[-1], grid=(5, 18))
    assert_same_bits(weights.params, again.params)
    np.testing.assert_array_equal(again.palette.centers, np.load(palettes[0]))
    assert json.loads((tmp_path / "h" / "preprocessor_config.json").read_text())["size"] == {"height": 5, "width": 18}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20.npy", "21.npy", "h", "new", "o", "w"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["nowhere", "--to", "workdir", "--out", "x"], "nowhere: no such file"),
        (["nowhere", "--to", "workdir", "--out", "."], "--out .: holds something"),
        (["a", "--to", "workdir", "--out", "x", "--grid", "9"], "--grid"),
    ],
    ids=str,
)
def test_a_command_that_cannot_be_done(tmp_path, monkeypatch, capsys, options, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    assert main(["convert", *options]) == 2
    assert re.search(named, capsys.readouterr().err)
    assert [p.name for p in tmp_path.iterdir()] == ["here"]
