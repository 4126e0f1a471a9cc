"""What a model says about itself: its description, and its classes by name."""

import dataclasses
import json

import pytest

from igpt_jax.config import ModelConfig
from igpt_jax.model import count_params
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import make_mesh
from igpt_jax.pretrained import class_index, describe, load_workdir
from igpt_jax.training.checkpoint import Checkpointer, CheckpointMeta
from igpt_jax.training.step import make_program
from igpt_jax.weights.load import convert, load_pretrained
from tests.data.made import refused
from tests.small_run import CFG
from tests.weights.made import pretrained

ANIMALS = ("ant", "bee", "cow", "cat", "dog", "eel", "fox")


def classes(names=ANIMALS, **model):
    return dataclasses.replace(pretrained(**model or {"cond_classes": 7}), class_names=names)


@pytest.mark.parametrize("model", [{"cond_classes": 7}, {"clf_classes": 7, "causal": False}], ids=str)
def test_classes_by_name_and_by_number(model):
    weights = classes(**model)
    assert [class_index(weights, name) for name in ANIMALS] == list(range(7))
    assert [class_index(weights, str(i)) for i in range(-1, 7)] == list(range(-1, 7))
    assert class_index(classes(("9", "1", "0"), cond_classes=7), "9") == 0  # a name that is a number
    assert class_index(classes(("a",), cond_classes=7), "6") == 6  # fewer names than classes


KNOWN = "must be one of ant, bee, cow, cat, dog and 2 more, or a number from 0 to 6"


@pytest.mark.parametrize(
    ("weights", "asked", "says"),
    [
        (classes(), "caat", f"class 'caat': {KNOWN}; did you mean 'cat'?"),
        *((classes(), asked, f"class '{asked}': {KNOWN}") for asked in ("7", "-2", "01", "")),
        (classes(()), "cat", "class 'cat': the names of the classes are not known; give a number from 0 to 6"),
        (classes((), grid=(10, 10)), "cat", "class 'cat': this model knows no classes"),
    ],
    ids=str,
)
def test_classes_that_are_not_there(weights, asked, says):
    assert refused("", class_index, weights, asked).startswith(says)


def test_names_are_kept_in_workdirs_and_lost_elsewhere(tmp_path):
    weights = classes()
    again = load_pretrained(convert(weights, "workdir", tmp_path / "w"))
    assert again.class_names == ANIMALS
    assert load_pretrained(convert(again, "workdir", tmp_path / "v")).class_names == ANIMALS
    plain = classes(grid=(10, 10))
    assert load_pretrained(convert(plain, "huggingface", tmp_path / "h")).class_names == ()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function that saves the first step of a run, and the workdir."""
    palette = Palette.levels(17)
    state = make_program(CFG, palette, make_mesh()).init()

    def save(*names):
        workdir = tmp_path_factory.mktemp("run")
        meta = CheckpointMeta(0, CFG, palette, {"train": "a", "held_out": "b"}, {}, {}, *names)
        with Checkpointer(workdir, meta) as checkpointer:
            checkpointer.save(state, 3, {})
        return load_workdir(workdir)

    return save


def test_a_run_keeps_the_names_of_its_classes(run):
    assert run(list(ANIMALS)).class_names == ANIMALS
    assert run().class_names == ()


def test_the_description_of_a_run(run):
    assert json.loads(json.dumps(describe(run()))) == {
        "name": "small",
        "objective": "ar",
        "layers": 1,
        "width": 16,
        "heads": 2,
        "grid": [8, 8],
        "vocab": 17,
        "parameters": count_params(CFG.model),
        "classes": 0,
        "class_names": [],
        "class_conditional": False,
        "classifies": False,
        "any_order": False,
        "step": 3,
        "palette": {"colors": 17, "channels": 1},
        "source": "digits",
    }


def test_the_description_of_weights_from_elsewhere():
    bare = dataclasses.replace(classes(), palette=None, step=None)
    shown = json.loads(json.dumps(describe(bare)))
    assert (shown["palette"], shown["step"], shown["source"]) == (None, None, None)
    assert (shown["classes"], shown["class_names"], shown["class_conditional"]) == (7, list(ANIMALS), True)
    joint = json.loads(json.dumps(describe(classes((), clf_classes=4))))
    assert (joint["objective"], joint["classes"], joint["class_conditional"], joint["classifies"]) == (
        "joint",
        4,
        False,
        True,
    )
    assert joint["parameters"] == count_params(
        ModelConfig(grid=(10, 10), vocab_size=21, n_layer=2, n_head=2, d_model=32, clf_classes=4)
    )
