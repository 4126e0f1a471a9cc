"""Bad input is one line on stderr that names the thing, exit code 2, and nothing is written or overwritten."""

import re

import numpy as np
import pytest

from igpt_jax.cli import main
from tests.cli.conftest import DIGITS, PALETTE
from tests.test_layering import ROOT

W = "WORKDIR"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["trian"], "did you mean 'train'"),
        (["completion"], "name a shell"),
        (["train"], "no experiment"),
        (["train", "nope.py"], "nope.py"),
        (["train", "digit"], "digits"),
        (["train", str(ROOT / "tests" / "conftest.py")], "config"),
        (["train", DIGITS, "--optim.lrr", "3"], "did you mean '--optim.lr'"),
        (["train", DIGITS, "--data.flip", "True"], "written --data.flip or --data.no-flip"),
        (["train", DIGITS, "digits"], "one argument too many: 'digits'"),
        (["train", DIGITS, "--train.steps"], "--train.steps: needs"),
        (["train", DIGITS, "--model.preset", "xxl"], "'xxl' is none of"),
        (["train", DIGITS, "--workdir", "gs://bucket/run"], "--workdir gs://bucket/run: addresses"),
        (["train", DIGITS, "--init-from", "gs://bucket/run"], "addresses"),
        (["train", DIGITS, "--data.source", "folder:gs://bucket/run"], "addresses"),
        (["train", DIGITS, "--optim.lr", "fast"], "--optim.lr"),
        (["train", DIGITS, "--optim.lr", "-1"], "optim.lr"),
        (["train", DIGITS, "--compute.dtype", "float8"], "--compute.dtype"),
        (["train", DIGITS, "--data.batch-size", "-4"], "data.batch_size"),
        (["train", DIGITS, "--data.batch-size", "9"], "data.batch_size"),
        (["train", DIGITS, "--mesh.tensor", "2"], "vocab = 17 over tensor = 2"),
        (["train", DIGITS, "--wandb"], "wandb"),
        (["train", DIGITS, "--num-processes", "two"], "--num-processes"),
        (["train", DIGITS, "--palette.path", "p.npy"], "palette.path"),
        (["train", DIGITS, "--tiny", "--train.steps", "19", "--workdir", W], "beyond 19"),
        (["train", DIGITS, "--mesh.data", "3"], "mesh"),
        (["train", DIGITS, "--model.grid", "8"], "model.grid"),
        (["train", DIGITS, "--data.source", "folder:/no/such"], "/no/such"),
        (["train", DIGITS, "--data.source", "idx:/no/such"], "/no/such"),
        (["train", DIGITS, "--data.source", "zip:x"], "data.source"),
        (["train", DIGITS, "--palette.kind", "kmeans", "--model.vocab-size", "400"], "17"),
        (["train", DIGITS, "--palette.kind", "file", "--palette.path", "/no/such.npy"], "/no/such.npy"),
        (["train", DIGITS, "--workdir", W], "model.n_layer"),
        (["sample"], "--model: missing"),
        (["sample", "--model", W, "--workdir", W], "both name the weights"),
        (["sample", "--model", "s3://bucket/run"], "addresses"),
        (["sample", "--model", W, "--out", "gs://bucket/x.png"], "addresses"),
        (["sample", "--model", W, "--classes", "3"], "class"),
        (
            ["sample", "--model", W, "--coordinator", "somewhere", "--num-processes", "2", "--process-id", "0"],
            "HOST:PORT",
        ),
        (["sample", "--workdir", "/no/such"], "/no/such"),
        (["sample", "--workdir", W, "--step", "7"], "there are 10, 20"),
        (["sample", "--workdir", W, "-n", "0"], "-n 0"),
        (["sample", "--workdir", W, "-n", "x"], "'x' is not a whole number"),
        (["sample", "--workdir", W, "--lookahead", "x"], "--lookahead: 'x' is none of a whole number, auto"),
        (["sample", "--workdir", W, "--top-k", "x"], "--top-k: 'x' is not a whole number"),
        (["sample", "--workdir", W, "--top-p", "7"], "top_p"),
        (["sample", "--workdir", W, "--out", "x.jpg"], "x.jpg"),
        (["sample", "--workdir", W, "--out", "/proc/nowhere/x.png"], "/proc/nowhere"),
        (["complete", "--workdir", W], "no image"),
        (["complete", "/no/such.png", "--workdir", W], "/no/such.png"),
        (["complete", DIGITS, "--workdir", W], "digits.py"),
        (["complete", "x.png", "--workdir", W, "--rows", "9"], "--rows"),
        (["complete", "x.png", "--workdir", W, "--rows", "8"], "leaves nothing to draw"),
        (["complete", "x.png", "--workdir", W, "--rows", "1", "--mask", "m.png"], "--mask"),
        (["eval", "--workdir", "."], "no weights are there"),
        (["eval", "--workdir", W, "--images", "0"], "images: must be at least 1, not 0"),
        (["info", "."], "no weights are there"),
        (["convert", W, "--to", "huggingface", "--out", "gs://bucket/x"], "addresses"),
        (["fetch", "igpt-s", "--out", "gs://bucket/x"], "addresses"),
        (["palette", "digits", "--out", "gs://bucket/x"], "addresses"),
        (["plan", "digits"], "--topology"),
        (["plan", "--topology", "v5e:4x4"], "--model.preset"),
        ([*PALETTE, "x", "--colors", "18"], "17"),
        ([*PALETTE, "x", "--process-id", "0"], "--process-id"),
        (["palette", "digits", "--out", "x", "--channels", "2"], "--channels"),
        (["palette", "digits", "--out", "x", "--images", "0"], "--images 0"),
        (["sample", "--model", W, "--out", "/proc/version"], "/proc/version: is a file"),
        ([*PALETTE, "/proc/nowhere/x", "--colors", "9"], "/proc/nowhere"),
        (["palette", "digits", "--out", f"{DIGITS}/x"], "is a file"),
        (["palette", "digits", "--out", "x", "--load", "/no/such.npy"], "/no/such.npy"),
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


def test_a_palette_of_the_wrong_shape_is_refused(tmp_path, capsys):
    np.save(tmp_path / "p.npy", np.zeros((17, 3), np.float32))
    command = ["train", DIGITS, "--palette.kind", "file", "--palette.path", str(tmp_path / "p.npy")]
    assert main([*command, "--workdir", str(tmp_path / "run")]) == 2
    assert "17 colours of 3 channels" in capsys.readouterr().err


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
