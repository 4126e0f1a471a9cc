"""OpenAI's layout: checkpoints that TensorFlow's own Saver wrote are read, and what is written TensorFlow reads."""

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.weights.load import load_pretrained
from igpt_jax.weights.openai import write_openai
from tests.data.made import refused
from tests.model.numpy_forward import forward
from tests.test_layering import ROOT
from tests.weights.made import pretrained, tokens

SHAPE = SimpleNamespace(n=2, d=32, h=4, t=100, v=21)
BLOCK = ("attn/q_proj", "attn/k_proj", "attn/v_proj", "attn/c_proj", "ln_1/g", "ln_2/g", "mlp/c_fc/w", "mlp/c_proj/w")


def variables(sos=True, clf=0):
    """The variables of `src/model.py`, each random and of some size."""
    rng = np.random.default_rng(0)
    n, d, h, t, v = SHAPE.n, SHAPE.d, SHAPE.h, SHAPE.t, SHAPE.v
    shapes = {"model/wpe": (t, d), "model/wte": (v, d), "model/wtet": (v, d), "model/ln_f/g": (d,)}
    shapes |= {"model/sos": (d,)} if sos else {}
    shapes |= {"model/clf/wclf": (clf, d)} if clf else {}
    for i in range(n):
        block = dict.fromkeys(BLOCK[:4], (h, d // h, d)) | dict.fromkeys(BLOCK[4:6], (d,))
        block |= {"mlp/c_fc/w": (d, 4 * d), "mlp/c_proj/w": (4 * d, d)}
        shapes |= {f"model/h{i}/{name}": shape for name, shape in block.items()}
    return {
        name: (name.endswith("/g") + (d**-0.5 if "/h" in name else 0.3) * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def with_bookkeeping(tensors):
    """Adam's slots, in the names of several optimizers, and counters beside the weights."""
    beside = {"global_step": np.int64(5), "beta1_power": np.float32(0.9), "model/beta2_power_1": np.float32(0.9)}
    beside |= {"model/_step": np.int64(5)}
    for name, x in tensors.items():
        beside |= {f"{name}/{slot}": np.zeros_like(x) for slot in ("adam_m", "adam_v")}
    for slot in ("Adam", "Adam_1", "AdamWeightDecayOptimizer", "AdamWeightDecayOptimizer_1"):
        beside[f"model/wpe/{slot}"] = np.zeros(3, np.float32)
    return tensors | beside


def save_in_session(path, tensors, **saver):
    """As `tf.train.Saver` does in a graph of TensorFlow 1."""
    tf = pytest.importorskip("tensorflow")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        made = [tf.compat.v1.get_variable(k, initializer=x, use_resource=False) for k, x in tensors.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(made, **saver).save(session, str(path), write_state=False)
    return path


def save(path, tensors):
    """The operation behind the Saver, which takes a tenth of its time."""
    tf = pytest.importorskip("tensorflow")
    names, values = zip(*with_bookkeeping(tensors).items())
    tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
    return path


def by_hand(variables):
    """Our parameter tree, written out without the table."""

    def stack(name):
        return np.stack([variables[f"model/h{i}/{name}"] for i in range(SHAPE.n)])

    attn = {name: {"w": stack(f"attn/{name}")} for name in ("q_proj", "k_proj", "v_proj", "c_proj")}
    mlp = {name: {"w": stack(f"mlp/{name}/w")} for name in ("c_fc", "c_proj")}
    layers = {"attn": attn, "mlp": mlp, "ln_1": {"g": stack("ln_1/g")}, "ln_2": {"g": stack("ln_2/g")}}
    top = {name: variables[f"model/{name}"] for name in ("wpe", "wte", "wtet", "sos") if f"model/{name}" in variables}
    return top | {"h": layers, "ln_f": {"g": variables["model/ln_f/g"]}}


@pytest.mark.parametrize("kind", ["ar", "bert", "sharded"])
def test_logits_of_what_the_saver_wrote(tmp_path, kind):
    theirs = variables(sos=kind != "bert")
    path = tmp_path / "igpt-s" / "model.ckpt-131000"
    weights = load_pretrained(save_in_session(path, with_bookkeeping(theirs), sharded=kind == "sharded"))
    cfg = weights.model.cfg
    assert (cfg.n_layer, cfg.d_model, cfg.n_head, cfg.vocab_size, cfg.grid) == (2, 32, 4, 21, (10, 10))
    assert (weights.step, weights.palette, weights.config.name) == (131000, None, "igpt-s")
    assert (cfg.causal, weights.config.objective) == ((False, "bert") if kind == "bert" else (True, "ar"))
    x = tokens(cfg)
    want, _ = forward(by_hand(theirs), cfg, x)
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(jax.jit(weights.model.apply)({"params": weights.params}, x), want, atol=1e-5, rtol=0)


def test_a_classification_head_and_the_palette_beside_it_are_read(tmp_path):
    theirs = variables(clf=10)
    beside = np.random.default_rng(0).uniform(-1, 1, (21, 3)).astype(np.float32)
    np.save(tmp_path / "kmeans_centers.npy", beside)
    weights = load_pretrained(save(tmp_path / "model.ckpt-1", theirs))
    assert (weights.model.cfg.clf_classes, weights.config.objective) == (10, "joint")
    np.testing.assert_array_equal(weights.params["clf"], theirs["model/clf/wclf"])
    np.testing.assert_array_equal(weights.palette.centers, beside)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda v: {"x/y": v["model/wte"]}, "holds no Image GPT: no model/"),
        (lambda v: {k: x for k, x in v.items() if "/h" not in k}, "holds no Image GPT: no model/"),
        (lambda v: v | {"model/wte": v["model/wte"].astype(np.float64)}, "model/wte is float64"),
        (lambda v: v | {"model/wpe": v["model/wpe"][:99]}, "99 positions are not 9 x 9"),
        (
            lambda v: {name.replace("/h1/", "/h2/"): x for name, x in v.items()},
            "missing model/h1/ln_1/g, model/h1/attn/q_proj.*not part of the model model/h2/attn/c_proj",
        ),
        (lambda v: v | {"model/h999999999/ln_1/g": v["model/sos"]}, "missing model/h2/ln_1/g"),
        (lambda v: v | {"model/wtet": v["model/wtet"][:, :-1]}, r"model/wtet has shape \[21, 31\], not \[21, 32\]"),
    ],
    ids=["another", "no_layers", "float64", "no_square", "missing_layer", "wild_number", "shape"],
)
def test_what_is_not_one_image_gpt(tmp_path, change, named):
    refused(named, load_pretrained, save(tmp_path / "model.ckpt-7", change(variables())))


def test_narrow_types_are_widened_exactly(tmp_path):
    import ml_dtypes

    theirs = variables()
    narrow = {"model/wte": np.float16, "model/h1/mlp/c_fc/w": ml_dtypes.bfloat16}
    theirs |= {name: theirs[name].astype(dtype) for name, dtype in narrow.items()}
    weights = load_pretrained(save(tmp_path / "model.ckpt-7", theirs))
    np.testing.assert_array_equal(weights.params["wte"], theirs["model/wte"].astype(np.float32))
    c_fc = weights.params["h"]["mlp"]["c_fc"]["w"]
    assert c_fc.dtype == np.float32
    np.testing.assert_array_equal(c_fc[1], theirs["model/h1/mlp/c_fc/w"].astype(np.float32))


@pytest.mark.parametrize(
    ("ending", "damage"),
    [
        (".index", lambda raw: b"short"),
        (".index", lambda raw: raw[:-20]),
        (".data-00000-of-00001", lambda raw: raw[: len(raw) // 5]),
        (".data-00000-of-00001", lambda raw: bytes(x ^ 1 for x in raw)),
    ],
    ids=["no_index", "index_truncated", "truncated", "bits"],
)
def test_damaged_files_are_named(tmp_path, ending, damage):
    prefix = save(tmp_path / "model.ckpt-7", variables())
    file = prefix.with_name(prefix.name + ending)
    file.write_bytes(damage(file.read_bytes()))
    refused(r"model\.ckpt-7: cannot be read", load_pretrained, prefix)


@pytest.mark.parametrize("model", [{}, {"causal": False}, {"clf_classes": 3}], ids=str)
def test_tensorflow_reads_what_is_written(tmp_path, model, monkeypatch):
    """By its Saver, into variables made anew as the release makes them; in several shards."""
    tf = pytest.importorskip("tensorflow")
    monkeypatch.setattr("igpt_jax.weights.openai._SHARD_BYTES", 30_000)
    weights = pretrained(n_head=4, **model)
    prefix = write_openai(weights, tmp_path / "o")
    assert prefix.name == "model.ckpt-7"
    names = {path.name.partition(".data")[0] for path in prefix.parent.iterdir()}
    assert names == {"model.ckpt-7", "model.ckpt-7.index", "kmeans_centers.npy"}
    assert len(list(prefix.parent.glob("*.data-*"))) > 2
    wanted = variables(sos=weights.model.cfg.causal, clf=weights.model.cfg.clf_classes)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        made = {k: tf.compat.v1.get_variable(k, x.shape, use_resource=False) for k, x in wanted.items()}
        tf.compat.v1.train.Saver(made).restore(session, str(prefix))
        values = session.run(made)
    np.testing.assert_array_equal(np.load(prefix.parent / "kmeans_centers.npy"), weights.palette.centers)
    assert {name for name, _ in tf.train.list_variables(str(prefix))} == wanted.keys()
    logits = jax.jit(weights.model.apply)({"params": weights.params}, tokens(weights.model.cfg))
    want, _ = forward(by_hand(values), weights.model.cfg, tokens(weights.model.cfg))
    np.testing.assert_allclose(logits, want, atol=1e-5, rtol=0)


def test_zero_biases_are_dropped_and_others_refused(tmp_path):
    pytest.importorskip("tensorflow")
    weights = pretrained(use_bias=True)
    says = "OpenAI's layout has no place for biases that are not zero .*h/attn/q_proj/b.*h/mlp/c_proj/b"
    refused(says, write_openai, weights, tmp_path / "o")
    assert not (tmp_path / "o").exists()

    def zeroed(path, x):
        return x * 0 if path[-1].key == "b" else x

    silent = dataclasses.replace(weights, params=jax.tree.map_with_path(zeroed, weights.params))
    again = load_pretrained(write_openai(silent, tmp_path / "o"))
    assert not again.model.cfg.use_bias
    assert not any(path[-1].key == "b" for path, _ in jax.tree.leaves_with_path(again.params))
    np.testing.assert_array_equal(again.params["h"]["attn"]["q_proj"]["w"], weights.params["h"]["attn"]["q_proj"]["w"])


def test_all_that_has_no_place_is_said_at_once(tmp_path):
    weights = pretrained(use_bias=True, cond_classes=3, grid=(4, 9))
    params = weights.params | {"class_table": jnp.ones_like(weights.params["class_table"])}
    weights = dataclasses.replace(weights, params=params)
    refused("biases .*; class_table; a grid of 4 x 9.* as 6 x 6", write_openai, weights, tmp_path / "o")


@pytest.mark.extra
def test_tensorflow_takes_no_gpu():
    """In a process that has not imported it yet; the GPUs, if any, are JAX's."""
    pytest.importorskip("tensorflow")
    code = "from igpt_jax.weights.openai import _tensorflow; print(_tensorflow().config.get_visible_devices('GPU'))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


def test_without_tensorflow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "model.ckpt-7.index").touch()
    for act in (lambda: load_pretrained(tmp_path / "model.ckpt-7"), lambda: write_openai(pretrained(), tmp_path / "o")):
        refused(r"pip install 'igpt_jax\[openai\]'", act)
    assert not (tmp_path / "o").exists()
