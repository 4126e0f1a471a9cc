"""Validation images: as many as asked for, the same in every run, and no group is divided."""

from dataclasses import replace

import numpy as np
import pytest

from igpt_jax import Config, ModelConfig
from igpt_jax.config import DataConfig
from igpt_jax.data.sources.base import Joined, Record, Source, Subset, group_hash, split_validation
from igpt_jax.data.sources.digits import MovingDigits
from igpt_jax.datasets import open_data
from tests.data.made import refused


class Numbers(Source):
    """Records whose label is their number."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def read(self, i, rng):
        return Record(image=np.zeros((1, 1, 1), np.uint8), label=i)


class Groups(Numbers):
    @property
    def groups(self):
        return np.arange(self.n) // 3


class Hashed(Numbers):
    """As of files: the groups are hashes of names."""

    @property
    def groups(self):
        return group_hash(f"picture {i // 3}" for i in range(self.n))


def labels(source):
    return [source.read(i, None)["label"] for i in range(len(source))]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_both_halves_together_are_all(share):
    halves = split_validation(Numbers(200), share)
    rest, aside = map(labels, halves)
    assert len(aside) == 200 * share
    assert sorted(rest + aside) == list(range(200))
    assert rest == sorted(rest)
    assert aside == sorted(aside)
    assert aside != list(range(len(aside)))  # they are spread
    assert labels(split_validation(Numbers(200), share)[1]) == aside
    assert halves[0].digest != halves[1].digest


@pytest.mark.parametrize("source", [Groups(60), Subset(Groups(90), np.arange(30, 90)), Hashed(60)], ids=str)
def test_groups_are_not_divided(source):
    rest, aside = map(labels, split_validation(source, 0.2))
    assert len(aside) == 12
    assert not {i // 3 for i in rest} & {i // 3 for i in aside}


def test_numbers_of_groups_go_through_parts_of_sources():
    some = Subset(Groups(9), np.array([8, 1, 0]))
    assert some.groups.tolist() == [2, 0, 0]
    assert Joined(some, Groups(7)).groups.tolist() == [2, 0, 0, 3, 3, 3, 4, 4, 4, 5]


@pytest.mark.parametrize("source", [Numbers(1), Groups(3)])
def test_one_group_cannot_be_divided(source):
    refused("to set 10% aside", split_validation, source, 0.1)


def test_a_run_trains_on_no_validation_image():
    cfg = Config(
        model=ModelConfig.preset("tiny", vocab_size=17),
        data=DataConfig(source="digits", batch_size=48, channels=1, validation=0.1),
    )
    data, plain = open_data(cfg), open_data(replace(cfg, data=replace(cfg.data, validation=0.0)))
    assert data.validation is not None
    assert plain.validation is None
    assert (len(data.train), len(data.validation), len(data.held_out)) == (1350, 150, 297)
    assert data.digests["images"] == plain.digests["images"] == "1797"
    assert data.digests["train"] != plain.digests["train"]
    batches = data.train_batches(0)
    trained = {next(batches)["image"][j].tobytes() for _ in range(2) for j in range(48)}
    batches.close()  # pyright: ignore
    aside = {data.validation.read(i, None)["image"].tobytes() for i in range(150)}
    assert len(trained & {data.train.read(i, None)["image"].tobytes() for i in range(1350)}) > 50
    assert not trained & aside
    assert open_data(cfg, whole=True).validation is None


def test_clips_of_a_part_are_still_cut_at_random_frames():
    clips = MovingDigits(DataConfig(source="moving_digits", channels=1), "train", "16x16")
    part = Subset(clips, np.arange(4, 12)).with_frames(3)
    assert len({part.read(0, np.random.default_rng(i))["image"].tobytes() for i in range(8)}) > 4
    np.testing.assert_array_equal(part.read(0, None)["image"], clips.with_frames(3).read(4, None)["image"])
