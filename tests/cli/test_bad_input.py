"""Bad input is one line on stderr that names the thing, exit code 2, and nothing is written or overwritten."""

import dataclasses
import re

import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.cli import main
from igpt_jax.run import Extensions, prepare
from tests.cli.conftest import DIGITS, PALETTE, refusal
from tests.small_run import CFG
from tests.test_layering import ROOT

W = "WORKDIR"


def ids(x):
    return " ".join(x)[-60:] if isinstance(x, list) else None


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
        (["train", DIGITS, "--optim.lrr", "3"], "did you mean '--optim.lr'"),
        (["train", DIGITS, "--optim.lr", "-1"], "optim.lr"),
        (["train", DIGITS, "--workdir", W], "model.n_layer"),
        (["sample"], "--model: missing"),
        (
            ["sample", "--model", W, "--coordinator", "somewhere", "--num-processes", "2", "--process-id", "0"],
            "HOST:PORT",
        ),
        (["complete", "/no/such.png", "--workdir", W], "/no/such.png"),
        ([*PALETTE, "/proc/nowhere/x", "--colors", "9"], "/proc/nowhere"),
    ],
    ids=ids,
)
def test_bad_input_is_one_line_and_code_2(workdir, capsys, command, named):
    assert main([str(workdir) if part is W else part for part in command]) == 2
    complaint = capsys.readouterr().err.strip()
    assert "\n" not in complaint
    assert named in complaint
    assert "Traceback" not in complaint


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "digits", "--data.flip", "True"], "options: True"),
        (["train", "digits", "digits"], "options: digits"),
        (["train", "--train.steps"], "'--train.steps'"),
        (["train", "--model.preset", "xxl"], "'xxl' for argument '--model.preset'. Expected one of"),
        (["train", "--optim.lr", "fast"], "--optim.lr: could not convert string to float: 'fast'"),
        (["train", "--compute.dtype", "float8"], "'--compute.dtype'"),
        (["train", "--num-processes", "two"], "--num-processes: no type matching {None}|INT"),
        (["sample", "-n", "x"], "-n/--n: invalid literal for int() with base 10: 'x'"),
        (["sample", "--top-k", "x"], "--top-k: no type matching {None}|INT"),
        (["convert", "x"], "--to {workdir,huggingface,openai}"),
        ([*PALETTE, "x", "--process-id", "0"], "options: --process-id"),
        (["palette", "digits", "--out", "x", "--channels", "2"], "'2' for argument '--channels'"),
        (["bench", "speed", DIGITS], "'speed' for argument 'action'. Expected one of"),
        (["video", "smaple"], "'smaple' for argument 'action'. Expected one of"),
    ],
    ids=ids,
)
def test_what_cannot_be_parsed_is_named_with_the_way_to_the_options(words, named):
    complaint = refusal(*words)
    assert named in complaint
    assert complaint.endswith(f"; igpt {words[0]} --help lists all options")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train"], "no experiment"),
        (["train", "digit"], "digits"),
        (["train", str(ROOT / "tests" / "conftest.py")], "config"),
        (["train", DIGITS, "--data.batch-size", "-4"], "data.batch_size"),
        (["train", DIGITS, "--palette.path", "p.npy"], "palette.path"),
        (["train", DIGITS, "--model.grid", "8"], "model.grid"),
        (["train", DIGITS, "--workdir", "gs://bucket/run"], "--workdir gs://bucket/run: addresses"),
        (["train", DIGITS, "--init-from", "gs://bucket/run"], "addresses"),
        (["train", DIGITS, "--init-from", W, "--model.d-model", "64"], "d_model is 16 there and 64 here"),
        (["train", DIGITS, "--wandb"], "wandb"),
        (["sample", "--model", W, "--workdir", W], "both name the weights"),
        (["sample", "--model", "s3://bucket/run"], "addresses"),
        (["sample", "--model", W, "--out", "gs://bucket/x.png"], "addresses"),
        (["sample", "--model", W, "--classes", "3"], "class"),
        (["sample", "--workdir", "/no/such"], "/no/such"),
        (["sample", "--workdir", W, "--step", "7"], "there are 3, 6, 9, 10"),
        (["sample", "--workdir", W, "-n", "0"], "-n 0"),
        (["sample", "--workdir", W, "--top-p", "7"], "top_p"),
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
        (["convert", W, "--to", "huggingface", "--out", "gs://bucket/x"], "addresses"),
        (["fetch", "igpt-s", "--out", "gs://bucket/x"], "addresses"),
        (["palette", "digits", "--out", "gs://bucket/x"], "addresses"),
        (["plan", "digits"], "--topology"),
        (["plan", "--topology", "v5e:4x4"], "--model.preset"),
        ([*PALETTE, "x", "--colors", "18"], "17"),
        (["palette", "digits", "--out", "x", "--images", "0"], "--images 0"),
        (["palette", "digits", "--out", f"{DIGITS}/x"], "is a file"),
        (["palette", "digits", "--out", "x", "--load", "/no/such.npy"], "/no/such.npy"),
    ],
    ids=ids,
)
@pytest.mark.usefixtures("untouched")
def test_a_command_that_cannot_run_names_the_thing(workdir, words, named):
    assert named in refusal(*(workdir if word is W else word for word in words))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data": {"batch_size": 9}}, "data.batch_size"),
        ({"data": {"source": "folder:/no/such"}}, "/no/such"),
        ({"data": {"source": "folder:gs://bucket/run"}}, "addresses"),
        ({"data": {"source": "idx:/no/such"}}, "/no/such"),
        ({"data": {"source": "zip:x"}}, "data.source"),
        ({"mesh": {"data": 3}}, "mesh"),
        ({"mesh": {"tensor": 2}}, "vocab = 17 over tensor = 2"),
        ({"palette": {"kind": "kmeans"}, "model": {"vocab_size": 400}}, "17"),
        ({"palette": {"kind": "file", "path": "/no/such.npy"}}, "/no/such.npy"),
        ({"train": {"steps": 9}}, "beyond 9"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("untouched")
def test_a_run_that_cannot_be_is_refused(workdir, tmp_path, changes, named):
    cfg = dataclasses.replace(CFG, **{k: dataclasses.replace(getattr(CFG, k), **v) for k, v in changes.items()})
    with pytest.raises(InputError, match=re.escape(named)):
        prepare(cfg, workdir if "train" in changes else tmp_path / "run", Extensions())


def test_a_palette_of_the_wrong_shape_is_refused(tmp_path):
    np.save(tmp_path / "p.npy", np.zeros((17, 3), np.float32))
    palette = dataclasses.replace(CFG.palette, kind="file", path=str(tmp_path / "p.npy"))
    with pytest.raises(InputError, match="17 colours of 3 channels"):
        prepare(dataclasses.replace(CFG, palette=palette), tmp_path / "run", Extensions())


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
