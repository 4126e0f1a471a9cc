"""Windows cover what they should, with the overlap that was asked for, and as few as possible."""

import itertools

import numpy as np
import pytest

from igpt_jax.sampling.tiles import blend_weights, windows

TILE = (8, 6)


def covered(size, placed):
    mask = np.zeros(size, int)
    for window in placed:
        assert mask[window].shape == TILE
        mask[window] += 1
    return mask


@pytest.mark.parametrize("overlap", [(0, 0), (2, 1), (7, 5)])
@pytest.mark.parametrize("size", [(8, 6), (9, 6), (14, 20), (40, 7)])
def test_a_picture_is_covered_by_as_few_windows_as_possible(size, overlap):
    placed = windows(size, TILE, overlap)
    assert covered(size, placed).all()
    corners = [(y.start, x.start) for y, x in placed]
    assert corners == sorted(corners)  # row by row
    for axis in range(2):
        starts = sorted({corner[axis] for corner in corners})
        gaps = np.diff(starts)
        assert starts[0] == 0
        assert starts[-1] == size[axis] - TILE[axis]
        assert (gaps <= TILE[axis] - overlap[axis]).all()
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1  # evenly spaced
        fewer = len(starts) - 1
        assert fewer == 0 or TILE[axis] + (fewer - 1) * (TILE[axis] - overlap[axis]) < size[axis]


def test_a_box_is_covered_and_lies_in_the_middle():
    size = (30, 30)
    for top, left, height, width in itertools.product((0, 5, 24), (0, 3, 27), (1, 6), (1, 3)):
        [window] = windows(size, TILE, (2, 2), (top, left, top + height, left + width))
        mask = covered(size, [window])
        assert mask[top : top + height, left : left + width].all()
        if 5 <= top < 20 and height == 6:
            assert window[0].start == top - 1
    placed = windows(size, TILE, (2, 2), (3, 4, 23, 5))
    assert covered(size, placed)[3:23, 4:5].all()
    assert {x.start for _, x in placed} == {1}
    assert (placed[0][0].start, placed[-1][0].start) == (3, 15)


def test_weights_fall_towards_the_edges_but_not_to_zero():
    weights = blend_weights((8, 8), (2, 2))
    np.testing.assert_allclose(weights[4], [1 / 3, 2 / 3, 1, 1, 1, 1, 2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(weights, weights.T)
    assert weights.min() > 0
    assert (blend_weights((8, 8), (0, 0)) == 1).all()
