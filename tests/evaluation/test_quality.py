"""How near one picture is to another."""

import numpy as np
import pytest

from igpt_jax.evaluation.quality import psnr


def test_psnr_in_decibels():
    a = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(a, a) == np.inf
    assert psnr(a, a + 255) == pytest.approx(0)  # squares of 255 must not overflow
    b = a.copy()
    b[0] = 16  # half the values off by 16: mean square 128
    assert psnr(a, b) == psnr(b, a) == pytest.approx(10 * np.log10(255**2 / 128))
    with pytest.raises(ValueError, match="one shape"):
        psnr(a, a[:1])
