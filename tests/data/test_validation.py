"""Validation images: as many as asked for, the same in every run, and no group is divided."""

import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.data.sources.base import Record
from igpt_jax.data.sources.validation import set_aside


class Numbers:
    """Records whose label is their number; groups of `size` have one name."""

    name, class_names, digest = "numbers", (), "digest"

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return Record(image=np.zeros((1, 1, 1), np.uint8), label=i)


class Groups(Numbers):
    def group(self, i):
        return str(i // 3)


def labels(source):
    return [source[i]["label"] for i in range(len(source))]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_both_halves_together_are_all(share):
    rest, aside = (labels(part) for part in set_aside(Numbers(200), share))
    assert len(aside) == 200 * share
    assert sorted(rest + aside) == list(range(200))
    assert rest == sorted(rest)
    assert aside == sorted(aside)
    assert aside != list(range(len(aside)))  # they are spread
    assert labels(set_aside(Numbers(200), share)[1]) == aside


def test_groups_are_not_divided():
    rest, aside = (labels(part) for part in set_aside(Groups(90), 0.2))
    assert len(aside) == 18
    assert not {i // 3 for i in rest} & {i // 3 for i in aside}


@pytest.mark.parametrize("source", [Numbers(1), Groups(3)])
def test_one_group_cannot_be_divided(source):
    with pytest.raises(InputError, match="too few to set 10% aside"):
        set_aside(source, 0.1)


def test_the_digest_says_which_records():
    halves = set_aside(Numbers(10), 0.5)
    assert halves[0].digest != halves[1].digest
