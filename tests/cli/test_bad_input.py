"""Bad input is one line on stderr that names the thing, exit code 2, and nothing is written or overwritten."""

import re
from dataclasses import replace

import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.cli import app, main
from igpt_jax.run import Extensions, prepare
from tests.cli.conftest import DIGITS, PALETTE
from tests.small_run import CFG

W = "WORKDIR"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "nope.py"], "nope.py"),
        (["train", DIGITS, "--optim.lrr", "3"], "did you mean '--optim.lr'"),
        (["train", DIGITS, "--optim.lr", "-1"], "optim.lr"),
        (["train", DIGITS, "--workdir", W], "model.n_layer"),
        (["sample"], "--model: missing"),
        (["sample", "--workdir", W, "-n", "0"], "-n 0"),
        (["complete", "/no/such.png", "--workdir", W], "/no/such.png"),
        (["info", "."], "no weights are there"),
        (["palette", "digits", "--out", f"{DIGITS}/x"], "is a file"),
    ],
    ids=lambda x: " ".join(x)[-60:] if isinstance(x, list) else None,
)
def test_bad_input_is_one_line_and_code_2(workdir, tmp_path, monkeypatch, capsys, command, named):
    monkeypatch.chdir(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in workdir.glob("*.*")}
    assert main([str(workdir) if part is W else part for part in command]) == 2
    complaint = capsys.readouterr().err.strip()
    assert "\n" not in complaint
    assert named in complaint
    assert "Traceback" not in complaint
    assert {p: p.stat().st_mtime_ns for p in workdir.glob("*.*")} == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "digits", "digits"], "digits"),
        (["train", "--train.steps"], "--train.steps"),
        (["train", "--model.preset", "xxl"], "'xxl' .*--model.preset.* one of"),
        (["train", "--optim.lr", "fast"], "--optim.lr: .*'fast'"),
        (["train", "--compute.dtype", "float8"], "--compute.dtype"),
        (["train", "--num-processes", "two"], "--num-processes: .*two"),
        (["convert", "x"], "--to .*--out"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_what_cannot_be_parsed_is_one_line(words, named):
    name, *words = words
    with pytest.raises(InputError, match=named) as caught:
        parse_and_check(name, words)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def parse_and_check(name, words):
    """The command as it would run."""
    return app._with_defaults(app.parse(app.COMMANDS[name], name, words, checked=name != "train"), name, words)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data": {"batch_size": 9}}, "data.batch_size"),
        ({"mesh": {"tensor": 2}}, "vocab = 17 over tensor = 2"),
        ({"mesh": {"data": 3}}, "mesh"),
        ({"data": {"source": "folder:/no/such"}}, "/no/such"),
        ({"data": {"source": "idx:/no/such"}}, "/no/such"),
        ({"data": {"source": "zip:x"}}, "data.source"),
        ({"data": {"source": "folder:gs://bucket/run"}}, "addresses"),
        ({"init_from": "gs://bucket/run"}, "addresses"),
        ({"palette": {"kind": "kmeans"}, "model": {"vocab_size": 400}}, "17"),
        ({"palette": {"kind": "file", "path": "/no/such.npy"}}, "/no/such.npy"),
        ({"palette": {"kind": "file", "path": "p.npy"}}, "17 colours of 3 channels"),
    ],
    ids=str,
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(tmp_path, monkeypatch, changes, named):
    monkeypatch.chdir(tmp_path)
    np.save("p.npy", np.zeros((17, 3), np.float32))
    parts = {k: replace(getattr(CFG, k), **v) if isinstance(v, dict) else v for k, v in changes.items()}
    with pytest.raises(InputError, match=named):
        prepare(replace(CFG, **parts), tmp_path / "run", Extensions())
    assert [path.name for path in tmp_path.iterdir()] == ["p.npy"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", DIGITS, "--workdir", "gs://bucket/run"], "--workdir gs://bucket/run: addresses"),
        (["train", DIGITS, "--wandb"], "wandb"),
        (["train", DIGITS, "--tiny", "--train.steps", "19", "--workdir", W], "beyond 19"),
        (["sample", "--model", W, "--workdir", W], "both name the weights"),
        (["sample", "--model", "s3://bucket/run"], "addresses"),
        (["sample", "--model", W, "--out", "gs://bucket/x.png"], "addresses"),
        (["sample", "--model", W, "--classes", "3"], "class"),
        (["sample", "--workdir", "/no/such"], "/no/such"),
        (["sample", "--workdir", W, "--step", "7"], "there are 10, 20"),
        (["sample", "--workdir", W, "--out", "x.jpg"], "x.jpg"),
        (["sample", "--workdir", W, "--top-p", "7"], "top_p"),
        (["sample", "--workdir", W, "--out", "/proc/nowhere/x.png"], "/proc/nowhere"),
        (["sample", "--model", W, "--out", "/proc/version"], "/proc/version: is a file"),
        (["complete", "--workdir", W], "no image"),
        (["complete", DIGITS, "--workdir", W], "digits.py"),
        (["complete", "x.png", "--workdir", W, "--rows", "9"], "--rows"),
        (["complete", "x.png", "--workdir", W, "--rows", "8"], "leaves nothing to draw"),
        (["complete", "x.png", "--workdir", W, "--rows", "1", "--mask", "m.png"], "--mask"),
        (["eval", "--workdir", W, "--images", "0"], "--images 0: must be at least 1"),
        (["convert", W, "--to", "huggingface", "--out", "gs://bucket/x"], "addresses"),
        (["fetch", "igpt-s", "--out", "gs://bucket/x"], "addresses"),
        (["palette", "digits", "--out", "gs://bucket/x"], "addresses"),
        (["plan", "digits"], "--topology"),
        (["plan", "--topology", "v5e:4x4"], "--model.preset"),
        ([*PALETTE, "x", "--colors", "18"], "17"),
        (["palette", "digits", "--out", "x", "--images", "0"], "--images 0"),
        ([*PALETTE, "/proc/nowhere/x", "--colors", "9"], "/proc/nowhere"),
        (["palette", "digits", "--out", "x", "--load", "/no/such.npy"], "/no/such.npy"),
    ],
    ids=lambda x: " ".join(x)[-60:] if isinstance(x, list) else None,
)
def test_a_command_that_cannot_run_names_the_option(workdir, tmp_path, monkeypatch, words, named):
    """Without what `main` does around it."""
    monkeypatch.chdir(tmp_path)
    name, *words = (str(workdir) if part is W else part for part in words)
    with pytest.raises(InputError, match=named) as caught:
        parse_and_check(name, words).run()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A wide picture, and masks of it."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photo")
    Image.fromarray(np.full((40, 80), 99, np.uint8)).save(folder / "photo.png")
    hole = np.zeros((40, 80), np.uint8)
    hole[:, :16] = 255  # outside the centre square
    Image.fromarray(hole).save(folder / "edge.png")
    Image.fromarray(hole.T).save(folder / "tall.png")
    Image.fromarray(np.zeros((40, 80), np.uint8)).save(folder / "dark.png")
    return folder


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        ("tall", "mask and .*photo.png have different shapes .40 x 80 and 80 x 40"),
        ("dark", "leaves nothing to draw"),
        ("edge", "leaves nothing to draw"),
    ],
)
def test_a_mask_must_leave_something_to_draw(workdir, photo, tmp_path, capsys, mask, named):
    """A hole that the mask's own shape, or the crop to the model's grid, would make disappear."""
    out = tmp_path / "x.npy"
    command = ["complete", str(photo / "photo.png"), "--model", str(workdir), "--out", str(out), "--mask"]
    assert main([*command, str(photo / f"{mask}.png")]) == 2
    complaint = capsys.readouterr().err.strip()
    assert re.search(named, complaint)
    assert "\n" not in complaint
    assert not out.exists()


def test_too_little_memory_is_one_line(workdir, monkeypatch, capsys):
    """On a device, as XLA reports it, and on the host."""
    import jax

    from igpt_jax.weights import load

    for error in (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), MemoryError()):

        def exhausted(*args, error=error, **options):
            raise error

        monkeypatch.setattr(load, "load_pretrained", exhausted)
        assert main(["sample", "--model", str(workdir)]) == 1
        complaint = capsys.readouterr().err.strip()
        assert "out of memory" in complaint
        assert "--batch-size" in complaint
        assert "\n" not in complaint
