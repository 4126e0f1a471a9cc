"""The cheap methods of the benchmarks are honest: they see no pixel that is yet to come."""

import importlib.util
import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from igpt_jax import ComputeConfig, ImageGPT, InputError
from igpt_jax.data.sources.paths import hold_out
from igpt_jax.plugins import load_config
from igpt_jax.training.flops import training_flops
from tests.conftest import randomized
from tests.test_layering import ROOT


def load(name):
    spec = importlib.util.spec_from_file_location(
        f"benchmark_{name}", ROOT / "experiments" / "benchmarks" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def video():
    yield load("video")
    del sys.modules["benchmark_video"]


def test_counts_of_video_look_at_no_pixel_to_come(video, rng):
    """Other colours from a token on change nothing of what its counts look at."""
    tokens = rng.integers(0, 5, (1, 4, 6, 7)).astype(np.int8)
    before = video.pixel_features(tokens, 1)
    for f, y, x in ((0, 0, 0), (1, 2, 3), (2, 0, 6), (3, 5, 0), (3, 3, 3)):
        at = np.ravel_multi_index((f, y, x), (4, 6, 7))
        other = tokens.copy().reshape(-1)
        other[at:] = (other[at:] + rng.integers(1, 5, other[at:].shape)) % 5
        after = video.pixel_features(other.reshape(tokens.shape), 1)
        for name, feature in before.items():
            assert feature[0, f, y, x] == after[name][0, f, y, x], name


def test_motion_is_found_where_it_is_plain(video, rng):
    """A frame that moves by one pixel is brought here exactly by the motion that the frames before it show."""
    still = np.pad(rng.integers(0, 5, (6, 6)).astype(np.int8), 5)
    clip = np.stack([np.roll(still, (t, -t), (0, 1)) for t in range(4)])[None]
    features = video.pixel_features(clip, 1)
    inside = (slice(None), 3, slice(4, 13), slice(3, 12))
    np.testing.assert_array_equal(features["before 3: best"][inside], clip[inside])


def test_images_are_read_slot_by_slot_as_the_model_sees_them():
    model = ImageGPT(load_config("digits", tiny=True).model, ComputeConfig(dtype="float32"))
    tokens = np.random.default_rng(0).integers(0, model.cfg.vocab_size, (3, model.cfg.n_ctx))
    params = randomized(model.init(jax.random.key(0), tokens)["params"], 0.3)
    whole = jax.nn.log_softmax(model.apply({"params": params}, tokens))
    expected = -np.take_along_axis(np.asarray(whole), tokens[..., None], axis=2)[..., 0].mean(axis=1)
    cache_types = load("cache_types")
    np.testing.assert_allclose(cache_types.read_nats(model, params, tokens), expected, rtol=1e-5)
    rounded = cache_types.read_nats(model.clone(cache="int8"), params, tokens)
    assert 1e-6 < np.abs(rounded - expected).max() < 0.05


def test_isoflop_runs_cost_the_same_and_the_lowest_point_of_a_parabola():
    isoflop, base = load("isoflop"), load_config("digits", tiny=True)
    for size in ("1x16", "2x32", "3x64"):
        cfg = isoflop.run_config(base, size, 1e11)
        assert cfg.train.steps * training_flops(cfg.model, cfg.compute, 32).headline == pytest.approx(1e11, rel=0.05), (
            size
        )
    with pytest.raises(InputError, match="steps of 3x64; allow more"):
        isoflop.run_config(base, "3x64", 1e10)
    sizes = [1000, 4000, 9000, 50_000]
    nats = [1 + np.log(n / 7000) ** 2 for n in sizes]
    assert isoflop.lowest(sizes, nats) == pytest.approx(7000)
    assert isoflop.lowest(sizes, [1, 2, 3, 4]) is None


@pytest.fixture
def emoji_package(tmp_path):
    """A package like emoji-datasource-google, with 40 pictures of two categories and one of the tones."""
    package, categories = tmp_path / "package", ["Food & Drink", "Flags"]
    pictures = package / "img" / "google" / "64"
    pictures.mkdir(parents=True)
    entries = [{"image": f"{i:04x}.png", "category": categories[i % 2]} for i in range(40)]
    entries += [{"image": "1f3fb.png", "category": "Component"}, {"image": "lost.png", "category": "Flags"}]
    for entry in entries[:-1]:
        Image.new("RGB", (4, 4)).save(pictures / entry["image"])
    (package / "emoji.json").write_text(json.dumps(entries))
    return package


def test_sorted_emoji_are_held_out_like_those_of_the_run(emoji_package, tmp_path):
    """Else a probe would test on emoji that its model was trained on."""
    sort_emoji, out = load("emoji_categories").sort_emoji, tmp_path / "sorted"
    assert sort_emoji(emoji_package, out) == {"food_and_drink": 20, "flags": 20}
    assert not (out / "component").exists()
    cfg = load_config("emoji").data

    def held_out(root):
        paths = [path.relative_to(root).as_posix() for path in root.rglob("*.png")]
        return {path.rpartition("/")[2] for path in hold_out(paths, cfg, "emoji")["eval"]}

    flat = held_out(emoji_package / "img" / "google" / "64") - {"1f3fb.png"}
    assert held_out(out) == flat
    with pytest.raises(InputError, match=r"--out .*: exists"):
        sort_emoji(emoji_package, out)
    with pytest.raises(InputError, match=r"npm install emoji-datasource-google"):
        sort_emoji(tmp_path, tmp_path / "other")
