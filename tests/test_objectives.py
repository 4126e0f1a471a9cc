"""The AR loss is the mean over all tokens, the first included, as numpy computes it; padding is not seen."""

import jax
import numpy as np

from igpt_jax import Palette
from igpt_jax.objectives import OBJECTIVES, token_nats

PALETTE = Palette.levels(16)


def images(n):
    return np.random.default_rng(1).integers(0, 256, (n, 8, 8, 1), np.uint8)


def test_against_numpy(tiny):
    model, params = tiny
    image = images(3)
    tokens = np.asarray(PALETTE.encode(image)).reshape(3, 64)
    logits = np.asarray(model.apply({"params": params}, tokens), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_p, tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(token_nats(logits.astype(np.float32), tokens), nats, atol=1e-5)
    loss, metrics = OBJECTIVES["ar"](model, PALETTE)(params, {"image": image}, jax.random.key(0))
    np.testing.assert_allclose([loss, metrics["nats_per_token"]], nats.mean(), rtol=1e-6)


def test_padding_rows_do_not_count(tiny):
    model, params = tiny
    ar, key = OBJECTIVES["ar"](model, PALETTE), jax.random.key(0)
    image, weight = images(4), np.array([1, 1, 0, 0], np.float32)
    expected, _ = ar(params, {"image": image[:2]}, key)
    found, _ = ar(params, {"image": image, "weight": weight}, key)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
