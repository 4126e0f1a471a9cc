"""Bad input is one line on stderr that names the thing, exit code 2, and nothing is written or overwritten."""

import numpy as np
import pytest

from igpt_jax.cli import main
from tests.cli.conftest import DIGITS, PALETTE, refusal
from tests.test_layering import ROOT

W = "WORKDIR"
JOINED = ["--coordinator", "somewhere", "--num-processes", "2", "--process-id", "0"]


@pytest.fixture
def untouched(workdir, empty):
    """The workdir stays as it is, and the current directory empty."""
    before = {p: p.stat().st_mtime_ns for p in workdir.glob("*.*")}
    yield
    assert {p: p.stat().st_mtime_ns for p in workdir.glob("*.*")} == before


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["trian"], "did you mean 'train'"),
        (["completion"], "name a shell"),
        (["train", "nope.py"], "nope.py"),
        (["train", DIGITS, "--optim.lrr", "3"], "did you mean '--optim.lr'?; igpt train --help lists all options"),
        (["train", DIGITS, "--optim.lr", "-1"], "optim.lr"),
        (["train", DIGITS, "--workdir", W], "model.n_layer"),
        (["sample"], "--model: missing"),
        (["sample", "--model", W, *JOINED], "HOST:PORT"),
        (["complete", "/no/such.png", "--workdir", W], "/no/such.png"),
        ([*PALETTE, "/proc/nowhere/x", "--colors", "9"], "/proc/nowhere"),
    ],
    ids=lambda x: " ".join(x)[-60:] if isinstance(x, list) else None,
)
def test_bad_input_is_one_line_and_code_2(workdir, capsys, command, named):
    assert main([str(workdir) if part is W else part for part in command]) == 2
    complaint = capsys.readouterr().err.strip()
    assert "\n" not in complaint
    assert named in complaint
    assert "Traceback" not in complaint


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["train"], "no experiment"),
        (["train", "digit"], "digits"),
        (["train", str(ROOT / "tests" / "conftest.py")], "config"),
        (["train", DIGITS, "--data.flip", "True"], "options: True, after --data.flip, which takes no value"),
        (["train", DIGITS, "digits"], "Unrecognized options: digits"),
        (["train", DIGITS, "--train.steps"], "'--train.steps'"),
        (["train", DIGITS, "--model.preset", "xxl"], "'xxl' for argument '--model.preset'. Expected one of"),
        (["train", DIGITS, "--workdir", "gs://bucket/run"], "--workdir gs://bucket/run: addresses"),
        (["train", DIGITS, "--init-from", "gs://bucket/run"], "addresses"),
        (["train", DIGITS, "--init-from", W, "--model.d-model", "64"], "d_model is 16 there and 64 here"),
        (["train", DIGITS, "--data.source", "folder:gs://bucket/run"], "addresses"),
        (["train", DIGITS, "--optim.lr", "fast"], "--optim.lr: could not convert string to float: 'fast'"),
        (["train", DIGITS, "--compute.dtype", "float8"], "'--compute.dtype'"),
        (["train", DIGITS, "--data.batch-size", "-4"], "data.batch_size"),
        (["train", DIGITS, "--data.batch-size", "9"], "data.batch_size"),
        (["train", DIGITS, "--mesh.tensor", "2"], "vocab = 17 over tensor = 2"),
        (["train", DIGITS, "--wandb"], "wandb"),
        (["train", DIGITS, "--num-processes", "two"], "--num-processes: no type matching {None}|INT"),
        (["train", DIGITS, "--palette.path", "p.npy"], "palette.path"),
        (["train", DIGITS, "--tiny", "--train.steps", "19", "--workdir", "QUICKSTART"], "beyond 19"),
        (["train", DIGITS, "--mesh.data", "3"], "mesh"),
        (["train", DIGITS, "--model.grid", "8"], "model.grid"),
        (["train", DIGITS, "--data.source", "folder:/no/such"], "/no/such"),
        (["train", DIGITS, "--data.source", "idx:/no/such"], "/no/such"),
        (["train", DIGITS, "--data.source", "zip:x"], "data.source"),
        (["train", DIGITS, "--palette.kind", "kmeans", "--model.vocab-size", "400"], "17"),
        (["train", DIGITS, "--palette.kind", "file", "--palette.path", "/no/such.npy"], "/no/such.npy"),
        (["train", DIGITS, "--palette.kind", "file", "--palette.path", "P.NPY"], "17 colours of 3 channels"),
        (["sample", "--model", W, "--workdir", W], "both name the weights"),
        (["sample", "--model", "s3://bucket/run"], "addresses"),
        (["sample", "--model", W, "--out", "gs://bucket/x.png"], "addresses"),
        (["sample", "--model", W, "--classes", "3"], "class"),
        (["sample", "--workdir", "/no/such"], "/no/such"),
        (["sample", "--workdir", W, "--step", "7"], "there are 3, 6, 9, 10"),
        (["sample", "--workdir", W, "-n", "0"], "-n 0"),
        (["sample", "--workdir", W, "-n", "x"], "-n/--n: invalid literal for int() with base 10: 'x'"),
        (["sample", "--workdir", W, "--top-k", "x"], "--top-k: no type matching {None}|INT"),
        (["sample", "--workdir", W, "--top-p", "7"], "sampler.top_p: must be at most 1"),
        (["sample", "--workdir", W, "--out", "x.jpg"], "x.jpg"),
        (["sample", "--workdir", W, "--out", "/proc/nowhere/x.png"], "/proc/nowhere"),
        (["sample", "--model", W, "--out", "/proc/version"], "/proc/version: is a file"),
        (["complete", "--workdir", W], "no image"),
        (["complete", DIGITS, "--workdir", W], "digits.py"),
        (["complete", "x.png", "--workdir", W, "--rows", "9"], "--rows"),
        (["complete", "x.png", "--workdir", W, "--rows", "8"], "leaves nothing to draw"),
        (["complete", "x.png", "--workdir", W, "--rows", "1", "--mask", "m.png"], "--mask"),
        (["eval", "--workdir", "."], "no weights are there"),
        (["eval", "--workdir", W, "--images", "0"], "images: must be at least 1, not 0"),
        (["info", "."], "no weights are there"),
        (["convert", "x"], "--to {workdir,huggingface,openai}"),
        (["convert", W, "--to", "huggingface", "--out", "gs://bucket/x"], "addresses"),
        (["fetch", "igpt-s", "--out", "gs://bucket/x"], "addresses"),
        (["plan", "digits"], "--topology"),
        (["plan", "--topology", "v5e:4x4"], "--model.preset"),
        ([*PALETTE, "x", "--colors", "18"], "17"),
        ([*PALETTE, "x", "--process-id", "0"], "--process-id"),
        (["palette", "digits", "--out", "gs://bucket/x"], "addresses"),
        (["palette", "digits", "--out", "x", "--channels", "2"], "'2' for argument '--channels'"),
        (["palette", "digits", "--out", "x", "--images", "0"], "--images 0"),
        (["palette", "digits", "--out", f"{DIGITS}/x"], "is a file"),
        (["palette", "digits", "--out", "x", "--load", "/no/such.npy"], "/no/such.npy"),
    ],
    ids=lambda x: " ".join(x)[-60:] if isinstance(x, list) else None,
)
def test_a_command_that_cannot_run_names_the_thing(workdir, quickstart, tmp_path_factory, command, named):
    palette = tmp_path_factory.getbasetemp() / "p.npy"
    np.save(palette, np.zeros((17, 3), np.float32))
    paths = {W: workdir, "QUICKSTART": quickstart / "run", "P.NPY": palette}
    assert named in refusal(*(paths.get(word, word) for word in command))


@pytest.mark.parametrize("error", ["RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.", None])
def test_too_little_memory_is_one_line(workdir, error, monkeypatch, capsys):
    """On a device, as XLA reports it, and on the host."""
    import jax

    from igpt_jax.weights import load

    def exhausted(*args, **options):
        raise jax.errors.JaxRuntimeError(error) if error else MemoryError

    monkeypatch.setattr(load, "load_pretrained", exhausted)
    assert main(["sample", "--model", str(workdir)]) == 1
    complaint = capsys.readouterr().err.strip()
    assert "out of memory" in complaint
    assert "--batch-size" in complaint
    assert "\n" not in complaint
