"""Bayes' rule against enumeration: every picture of 2 x 2 pixels in 3 colours."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest

from igpt_jax import ImageGPT, InputError, ModelConfig, Palette
from igpt_jax.config import MeshConfig
from igpt_jax.evaluation import Evaluators
from igpt_jax.evaluation.bayes import make_bayes
from tests.conftest import randomized
from tests.evaluation.made import ONE_DEVICE, Images, context, made

PALETTE = Palette.levels(3)
ALL = np.array(list(itertools.product(range(3), repeat=4)))
PICTURES = np.asarray(PALETTE.decode(ALL.reshape(-1, 2, 2)))
LABELS = np.random.default_rng(0).integers(-1, 3, len(ALL))
PRIOR = np.array([5, 1, 3]) / 9


class Counted(Images):
    class_names = tuple("abc")


@pytest.fixture(scope="module")
def toy():
    model = ImageGPT(ModelConfig(grid=(2, 2), vocab_size=3, n_layer=1, n_head=2, d_model=16, cond_classes=3))
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 4), np.int32))["params"]
    return model, randomized(params, 0.5)


def measure(model, params, mesh=ONE_DEVICE, batch_size=8, labels=LABELS):
    where = context(model, "ar", batch_size, mesh, Counted(PICTURES, labels), PALETTE)
    train = Counted(PICTURES[:9], np.array([0, 0, 0, 0, 0, 1, 2, 2, 2]))
    where = replace(where, data=replace(where.data, train=train))
    return dict(Evaluators(where, ["bayes"]).run(params, 0))


def enumerated(model, params):
    """log p(picture | class) [3, 81]."""

    def log_p(c):
        logits = model.apply({"params": params}, ALL, class_B=np.full(len(ALL), c))
        return np.take_along_axis(np.asarray(jax.nn.log_softmax(logits), np.float64), ALL[..., None], -1)[..., 0].sum(1)

    return np.stack([log_p(c) for c in range(3)])


def test_accuracy_and_mixture_are_those_of_the_enumeration(toy):
    log_p = enumerated(*toy)
    assert np.exp(log_p).sum(axis=1) == pytest.approx([1, 1, 1], rel=1e-5)
    joint = log_p + np.log(PRIOR)[:, None]
    mixture = np.exp(joint).sum(axis=0)
    assert mixture.sum() == pytest.approx(1, rel=1e-5)
    measured = measure(*toy)
    right = (joint.argmax(axis=0) == LABELS)[LABELS >= 0]
    assert measured["bayes_accuracy"] == pytest.approx(right.mean())
    assert measured["bayes_accuracy_se"] == pytest.approx(right.std(ddof=1) / np.sqrt(len(right)))
    assert measured["marginal_nats"] == pytest.approx(-np.log(mixture).mean() / 4, rel=1e-5)
    best = joint.argmax(axis=0)
    assert measure(*toy, labels=best)["bayes_accuracy"] == 1


def test_neither_batches_nor_the_mesh_matter(toy):
    expected = measure(*toy)
    for mesh, size in ((MeshConfig(2, 2, 2), 8), (ONE_DEVICE, 100)):
        assert measure(*toy, mesh, size) == pytest.approx(expected, rel=1e-5)


def test_a_model_without_classes_is_refused():
    model, _ = made()
    with pytest.raises(InputError, match="bayes: this model reads no classes"):
        make_bayes(context(model, "ar"))
