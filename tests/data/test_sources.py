"""The table of sources, what every source has, and parts of sources: subsets, both halves, validation images."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from igpt_jax import Config, ModelConfig
from igpt_jax.config import DataConfig
from igpt_jax.data import sources
from igpt_jax.data.pipeline import train_batches
from igpt_jax.data.sources import (
    ArraySource,
    Source,
    Subset,
    absolute_source,
    open_source,
    register_source,
    window_start,
)
from igpt_jax.data.sources.base import Joined, Record, class_counts, group_hash, split_validation
from igpt_jax.data.sources.digits import MovingDigits
from igpt_jax.data.transforms import make_preprocess
from igpt_jax.datasets import open_data, subset
from tests.data.made import labels, refused, values, write


@pytest.fixture
def toy_kind(monkeypatch):
    """A registered kind `toy`: toy:N is N images of one grey, each with its index as grey and label."""
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))

    def open_toy(cfg, split, where):
        n = int(where or 5) if split == "train" else 2
        images = np.arange(n, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
        return ArraySource(cfg.source, images, np.arange(n), tuple(map(str, range(n))), cfg.channels)

    register_source("toy", open_toy)
    return open_toy


def test_a_registered_source_is_opened_and_read_in_batches(toy_kind):
    for name, n in (("toy:8", 8), ("toy", 5)):
        cfg = DataConfig(source=name, channels=1)
        train, held_out = open_source(cfg, "train"), open_source(cfg, "eval")
        assert (train.name, len(train), len(held_out)) == (name, n, 2)
        batches = train_batches(train, make_preprocess(cfg, (2, 2), train=True), batch_size=4, seed=0)
        for batch in itertools.islice(batches, 3):
            assert batch["image"].shape == (4, 2, 2, 1)
            assert (batch["image"] == batch["label"][:, None, None, None]).all()


def test_all_is_the_training_half_and_then_the_held_out_one(toy_kind):
    source = open_source(DataConfig(source="toy:4", channels=1), "all")
    assert values(source) == [0, 1, 2, 3, 0, 1]
    assert source.class_names == ("0", "1", "2", "3")
    assert source.digest not in (open_source(DataConfig(source="toy:4"), split).digest for split in ("train", "eval"))


def test_a_path_means_the_same_from_every_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for kind in ("folder", "idx", "clips", "tokens"):
        for typed, path in (
            ("pictures", tmp_path / "pictures"),
            ("./pictures/", tmp_path / "pictures"),
            ("../x", tmp_path / ".." / "x"),  # a link may stand before it
            ("~/pictures", tmp_path / "home" / "pictures"),
            ("~nobody-has-this-name/x", tmp_path / "~nobody-has-this-name" / "x"),
            ("/a:b", "/a:b"),
        ):
            assert absolute_source(f"{kind}:{typed}") == f"{kind}:{path}"
            assert absolute_source(f"{kind}:{path}") == f"{kind}:{path}"
    for other in ("digits", "folder", "folder:", "idx:", "tfds:mnist", "toy:pictures", ""):
        assert absolute_source(other) == other

    for i in range(2):
        write(tmp_path / "home" / "pictures" / f"{i}.png", i)
    source = open_source(DataConfig(source="folder:~/pictures"), "train")
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/")
    assert len(values(source)) == 1


def test_a_kind_belongs_to_one_opener(toy_kind):
    register_source("toy", toy_kind)
    for kind in ("toy", "digits"):
        with pytest.raises(ValueError, match=f"{kind!r} exists already"):
            register_source(kind, lambda cfg, split, where: None)
    for kind in ("", "a:b"):
        with pytest.raises(ValueError, match="without a colon"):
            register_source(kind, toy_kind)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *((name, "there are clips, digits, folder, idx, .* tokens, toy, and") for name in ("mnist", "s3:bucket", "")),
        *((name, f"name the folder: {name.strip(':')}:PATH") for name in ("folder", "folder:", "idx:", "clips")),
        ("tfds", "tfds:NAME"),
        ("digits:8", "write digits alone"),
    ],
)
def test_unknown_kinds_and_parts_missing_or_too_much_are_refused(toy_kind, name, says):
    refused(f"^data.source: .*{says}", open_source, DataConfig(source=name), "train")


def test_labels_are_known_without_reading_images(tmp_path):
    """Through subsets and both halves together, too."""
    for name in ("b/1", "a/1", "a/2", "3"):
        write(tmp_path / f"{name}.png", 0)
    for source in ("digits", f"folder:{tmp_path}"):
        whole = open_source(DataConfig(source=source, channels=1), "all")
        part = Subset(whole, np.arange(len(whole))[::-3])
        for each in (whole, part):
            read = labels(each)
            np.testing.assert_array_equal(each.labels, read)
            assert class_counts(each) == tuple(read.count(c) for c in range(len(each.class_names)))
    assert class_counts(open_source(DataConfig(source="moving_digits:9x9", channels=1), "train")) == ()


class Bare(Source):
    """All that a source of one's own needs."""

    def __init__(self, shift=0):
        self.shift = shift

    def __len__(self):
        return 12

    def read(self, i, rng):
        start = window_start(30, self.frames or 1, rng)
        frames = np.full((30, 4, 4, 1), i + self.shift, np.uint8)[start : start + (self.frames or 1)]
        return {"image": frames if self.frames else frames[0], "label": -1}


def test_a_source_is_a_length_and_read_with_defaults_for_the_rest():
    source = Bare()
    assert (source.name, source.class_names, class_counts(source)) == ("Bare", (), ())
    assert source.labels.tolist() == [-1] * 12
    assert source.groups.tolist() == list(range(12))
    assert source.digest == Bare().digest != Bare(1).digest
    joined = Joined(Subset(source, np.array([3, 1])), Bare(1))
    assert (len(joined), len(set(joined.groups.tolist()))) == (14, 14)
    assert values(joined) == [3, 1, *range(1, 13)]


@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_a_source_of_clips_is_passed_as_an_object(validation):
    """The run says how many frames it reads; halves, subsets and validation clips do."""
    model = ModelConfig(grid=(3, 4, 4), vocab_size=4, n_layer=1, n_head=1, d_model=8)
    cfg = Config(model=model, data=DataConfig(channels=1, batch_size=8, validation=validation))
    data = open_data(cfg, source={"train": Bare(), "eval": Bare(9)})
    assert {part.read(0, None)["image"].shape for part in (data.train, subset(data.held_out, 3))} == {(3, 4, 4, 1)}
    batches = data.train_batches(0)
    assert next(batches)["image"].shape == (8, 3, 4, 4, 1)
    batches.close()
    says = r"source: train must derive from .*Source; got list"
    refused(says, open_data, cfg, source={"train": [1], "eval": [1]})


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


GROUPED = {"groups": Groups(60), "subset": Subset(Groups(90), np.arange(30, 90)), "hashed": Hashed(60)}


@pytest.mark.parametrize("kind", GROUPED)
def test_groups_are_not_divided(kind):
    rest, aside = map(labels, split_validation(GROUPED[kind], 0.2))
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
    batches.close()
    halves = data.train, data.validation
    kept, aside = ({half.read(i, None)["image"].tobytes() for i in range(len(half))} for half in halves)
    assert len(trained & kept) > 50
    assert not trained & aside
    assert open_data(cfg, whole=True).validation is None


def test_clips_of_a_part_are_still_cut_at_random_frames():
    clips = MovingDigits(DataConfig(source="moving_digits", channels=1), "train", "16x16")
    part = Subset(clips, np.arange(4, 12)).with_frames(3)
    assert len({part.read(0, np.random.default_rng(i))["image"].tobytes() for i in range(8)}) > 4
    np.testing.assert_array_equal(part.read(0, None)["image"], clips.with_frames(3).read(4, None)["image"])
