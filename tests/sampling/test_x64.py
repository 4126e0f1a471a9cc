"""With 64-bit types switched on (JAX_ENABLE_X64) every task draws the same image: each loop has types of its own."""

import jax
import numpy as np
import pytest

from igpt_jax import continue_clip, inpaint, restore, sample
from igpt_jax.config import SamplerConfig
from tests.sampling.toy import PALETTE, toy

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 2, 1), np.uint8)
HOLE = np.array([[True, True], [False, True], [True, False]])
CLIP = dict(grid=(3, 1, 2))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: sample(*toy(cond_classes=2), PALETTE, 2, sampler=SamplerConfig(guidance=2, top_k=2, min_p=0.1)),
        lambda: sample(*toy(any_order=True), PALETTE, 2, sampler=SamplerConfig(order="random", lookahead=2)),
        lambda: inpaint(*toy(), PALETTE, IMAGES, HOLE, 3, sampler=SamplerConfig(method="smc", particles=4)),
        lambda: inpaint(*toy(causal=False), PALETTE, IMAGES, HOLE, 2, sampler=SamplerConfig(method="unmask", passes=2)),
        lambda: restore(*toy(prefix_slots=4, prefix_values=1, aligned_values=1), PALETTE, IMAGES, 2),
        lambda: continue_clip(*toy(**CLIP), PALETTE, IMAGES[:, :1, None, :], 4, sampler=SamplerConfig(lookahead=2)),
    ],
    ids=["guided", "random", "smc", "unmask", "restore", "clips"],
)
def test_the_same_image(draw):
    plain = draw()
    with jax.enable_x64(True):
        wide = draw()
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(wide), strict=True):
        np.testing.assert_array_equal(a, b)
