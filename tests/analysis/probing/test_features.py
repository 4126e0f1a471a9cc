"""Features: those of the model, whatever the batches and the mesh; masks for BERT; the class is never told."""

import jax
import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.analysis.probing import FeatureReader
from igpt_jax.config import MeshConfig
from tests.evaluation.made import IMAGES, LABELS, ONE_DEVICE, PALETTE, Images, context, made

LABELLED = LABELS >= 0


def read(model, params, objective="ar", layers=(0, 1), draws=1, first=0, images=None, **where):
    reader = FeatureReader(context(model, objective, images=images, **where), params, layers)
    return reader.read(images or Images(), draws, first)


def tokens():
    return np.asarray(PALETTE.encode(IMAGES)).reshape(len(IMAGES), -1)


@pytest.mark.parametrize(("size", "mesh"), [(8, ONE_DEVICE), (3, ONE_DEVICE), (16, MeshConfig(2, 2, 2))])
def test_they_are_those_of_the_model_whatever_the_batches_and_the_mesh(size, mesh):
    model, params = made()
    features = read(model, params, layers=(1, 0), batch_size=size, mesh=mesh)
    expected = jax.jit(lambda p, t: model.apply({"params": p}, t, method="features"))(params, tokens())
    assert features.values.shape == (1, LABELLED.sum(), 2, model.cfg.d_model)
    for at, layer in enumerate((1, 0)):
        np.testing.assert_allclose(features.values[0, :, at], expected[layer][LABELLED], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features.labels, LABELS[LABELLED])
    np.testing.assert_array_equal(features.pixels, IMAGES[LABELLED].reshape(-1, 64))


def test_masks_of_bert_are_other_ones_in_every_draw_and_of_every_image_whatever_the_batches_and_the_mesh():
    model, params = made(causal=False)
    expected = read(model, params, "bert", draws=2).values
    for size, mesh in ((3, ONE_DEVICE), (16, MeshConfig(2, 2, 2))):
        values = read(model, params, "bert", draws=2, batch_size=size, mesh=mesh).values
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    one, two = expected
    assert np.abs(one - two).max(axis=(1, 2)).min() > 1e-3
    later = read(model, params, "bert", first=5).values[0]
    assert np.abs(one - later).max(axis=(1, 2)).min() > 1e-3
    assert context(model, "bert").objective.feature_draws == 5


@pytest.mark.parametrize("layer", [0, 1])
def test_the_average_of_all_slots_is_the_feature(layer):
    model, params = made()
    where = context(model, "ar")
    slots = FeatureReader(where, params, (layer,), slots=True).read(Images())
    assert slots.values.shape == (1, LABELLED.sum(), model.cfg.n_ctx, model.cfg.d_model)
    expected = read(model, params, layers=(layer,)).values[:, :, 0]
    np.testing.assert_allclose(slots.values.mean(axis=2), expected, rtol=1e-4, atol=1e-5)


def test_other_models_see_whole_images():
    model, params = made(causal=False)
    whole = np.asarray(model.apply({"params": params}, tokens(), method="features"))
    np.testing.assert_allclose(
        read(model, params, "ardm").values[0], whole[:, LABELLED].swapaxes(0, 1), rtol=1e-4, atol=1e-5
    )
    assert context(model, "ardm").objective.feature_draws == 1


def test_the_class_is_not_told():
    model, params = made(cond_classes=4)
    other = Images(labels=np.where(LABELLED, (LABELS + 1) % 4, -1))
    np.testing.assert_array_equal(read(model, params).values, read(model, params, images=other).values)


def test_bad_input():
    model, params = made()
    with pytest.raises(InputError, match=r"probe\.layers 0 2: this model has layers 0 to 1"):
        read(model, params, layers=(0, 2))
    with pytest.raises(InputError, match="no image of made has a label"):
        read(model, params, images=Images(labels=np.full(11, -1)))
