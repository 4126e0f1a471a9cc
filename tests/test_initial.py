"""What weights a run can start from: the models are compared by name, and position tables resized on request."""

import dataclasses

import jax
import numpy as np
import pytest

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig
from igpt_jax.config_json import differences
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import make_mesh
from igpt_jax.pretrained import check_initial, init_from_pretrained, model_from_weights, on_grid
from igpt_jax.training.step import make_program
from tests.data.made import refused
from tests.weights.made import pretrained

SIZES = dict(grid=(8, 8), vocab_size=16, n_layer=1, n_head=2, d_model=16)


def weights(**model):
    return pretrained(**SIZES | model)


def run(init_grid="same", **model):
    """(configuration, program) of a run that starts from weights."""
    model = ModelConfig(**SIZES | model)
    optim = OptimConfig(ema_decay=0.9)
    objective = "joint" if model.clf_classes else "ar" if model.causal else "bert"
    cfg = Config(init_from="runs/a", init_grid=init_grid, objective=objective, model=model, optim=optim)
    cfg = dataclasses.replace(cfg, data=DataConfig(channels=1))
    return cfg, make_program(cfg, Palette.levels(model.vocab_size), make_mesh())


def check(source, **asked):
    cfg, program = run(**asked)
    check_initial(program.abstract, cfg, source)


ENDING = "; set model.* as it was made"


@pytest.mark.parametrize(
    ("there", "here", "says"),
    [
        ({}, {"d_model": 32}, "d_model is 16 there and 32 here" + ENDING),
        (
            {},
            {"vocab_size": 17, "n_layer": 2, "n_head": 4},
            "vocab_size is 16 there and 17 here; n_layer is 1 there and 2 here; n_head is 2 there and 4 here" + ENDING,
        ),
        ({}, {"causal": False}, "causal is True there and False here" + ENDING),
        ({"use_bias": True}, {}, "use_bias is True there and False here" + ENDING),
        ({"cond_classes": 3}, {"cond_classes": 4}, "cond_classes is 3 there and 4 here" + ENDING),
        (
            {"prefix_slots": 16, "prefix_values": 4},
            {"prefix_slots": 64, "prefix_values": 1},
            "prefix_slots is 16 there and 64 here; prefix_values is 4 there and 1 here" + ENDING,
        ),
        (
            {},
            {"grid": (12, 12)},
            "grid is (8, 8) there and (12, 12) here" + ENDING + ", or --init-grid interpolate resizes its position "
            "tables",
        ),
        ({"grid": (64,)}, {}, "grid is (64,) there and (8, 8) here" + ENDING),
        ({"grid": (2, 8, 8)}, {"grid": (3, 8, 8)}, "grid is (2, 8, 8) there and (3, 8, 8) here" + ENDING),
        ({"grid": (2, 8, 8)}, {}, "grid is (2, 8, 8) there and (8, 8) here" + ENDING),
    ],
    ids=str,
)
def test_a_mismatch_is_named_by_the_settings(there, here, says):
    line = refused("", check, weights(**there), **here)
    assert line == f"init_from runs/a: does not fit: {says}"


def test_what_starts_at_zero_may_be_missing():
    check(weights(), use_bias=True, cond_classes=2, any_order=True)
    check(weights(), clf_classes=3)
    check(weights(), grid=(3, 8, 8))


def test_shapes_are_named_where_the_settings_agree():
    source = weights()
    params = {name: x for name, x in source.params.items() if name != "wte"}
    params |= {"extra": source.params["wte"], "sos": source.params["wte"]}
    line = refused("", check, dataclasses.replace(source, params=params))
    assert "does not fit: extra is not in this model; no wte; sos is (16, 16) there and (16,) here" in line
    clips = refused("", check, weights(any_order=True), any_order=True, grid=(3, 8, 8))
    assert "wpe_source is (64, 16) there and (192, 16) here" in clips


def test_raster_weights_start_a_model_that_restores():
    """What reads the damaged picture is new and random; everything else is that of the weights."""
    cfg, source = restoring(), weights()
    program = make_program(cfg, Palette.levels(16), make_mesh())
    check_initial(program.abstract, cfg, source)
    fresh = {name: np.asarray(x) for name, x in program.init().params.items() if name.startswith("prefix")}
    state = init_from_pretrained(program.init(), source, cfg.model.grid)
    for name, x in state.params.items():
        expected = fresh[name] if name in fresh else source.params[name]
        jax.tree.map(np.testing.assert_array_equal, x, expected)
    assert all(x.std() > 0.005 for x in fresh.values())


def restoring():
    model = ModelConfig(**SIZES, prefix_slots=16, prefix_values=4)
    data = DataConfig(channels=1, degrade=("gaussian:0.1",))
    return Config(init_from="runs/a", objective="restore", model=model, data=data)


def test_a_run_takes_the_sizes_of_the_weights_and_its_own_additions():
    there = ModelConfig(**SIZES, use_bias=True, cond_classes=3)
    asked = ModelConfig(vocab_size=99, clf_classes=5, any_order=True)
    expected = ModelConfig(**SIZES, use_bias=True, cond_classes=3, clf_classes=5, any_order=True)
    assert model_from_weights(asked, there) == expected
    assert model_from_weights(ModelConfig(cond_classes=9), there).cond_classes == 9
    picture = dataclasses.replace(there, prefix_slots=4, prefix_values=12)
    assert model_from_weights(ModelConfig(), picture) == picture
    other = model_from_weights(ModelConfig(prefix_slots=2, prefix_values=3), picture)
    assert (other.prefix_slots, other.prefix_values) == (2, 3)
    bert = ModelConfig(**SIZES, causal=False)
    assert model_from_weights(ModelConfig(), bert) == bert
    joint = ModelConfig(**SIZES, clf_classes=4)
    assert model_from_weights(ModelConfig(), joint) == joint
    refused("model.cond_classes: needs model.causal", model_from_weights, ModelConfig(cond_classes=2), bert)


def ramp(grid):
    """A table [T, 2] that holds where each position lies: rows and columns, in parts of the picture."""
    y, x = ((np.arange(n) + 0.5) / n for n in grid)
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (12, 12)), ((12, 12), (8, 8)), ((6, 4), (3, 8)), ((4, 6), (5, 7))])
def test_every_place_keeps_its_vector(old, new):
    """What a position is told about its place stays true, up to the outermost centres of the old grid."""
    resized = on_grid({"wpe": ramp(old)}, old, new)["wpe"]
    edges = 0.5 / np.asarray(old, np.float32)[None]
    np.testing.assert_allclose(resized, np.clip(ramp(new), edges, 1 - edges), atol=1e-6)


def test_corners_keep_their_own_vector_on_a_finer_grid():
    table = np.random.default_rng(0).normal(size=(8 * 8, 5)).astype(np.float32)
    old, new = table.reshape(8, 8, 5), np.asarray(on_grid({"wpe": table}, (8, 8), (12, 12))["wpe"]).reshape(12, 12, 5)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        np.testing.assert_allclose(new[corner], old[corner], atol=1e-6)
    middle = np.asarray(on_grid({"wpe": table}, (8, 8), (4, 4))["wpe"]).reshape(4, 4, 5)
    np.testing.assert_allclose(middle, old.reshape(4, 2, 4, 2, 5).mean(axis=(1, 3)), atol=1e-6)


def test_frames_are_resized_one_by_one_and_nothing_else_changes():
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(64, 4)).astype(np.float32) for name in ("wpe", "wpe_frame", "class_table")}
    params["wpe_source"] = np.concatenate([params["wpe"]] * 2)
    resized = on_grid(params, (2, 8, 8), (2, 6, 6))
    np.testing.assert_array_equal(resized["wpe_source"], np.concatenate([resized["wpe"]] * 2))
    for name in ("wpe_frame", "class_table"):
        assert resized[name] is params[name]
    assert on_grid(params, (8, 8), (8, 8)) is params


def test_a_run_starts_from_weights_of_another_grid():
    source = weights(any_order=True, cond_classes=3)
    model = {"grid": (12, 12), "any_order": True, "cond_classes": 3}
    refused("--init-grid interpolate", check, source, **model)
    cfg, program = run("interpolate", **model)
    check_initial(program.abstract, cfg, source)
    state = init_from_pretrained(program.init(), source, cfg.model.grid)
    expected = on_grid(source.params, (8, 8), (12, 12))
    for tree in (state.params, state.ema):
        assert tree["wpe"].shape == tree["wpe_source"].shape == (144, 16)
        jax.tree.map(np.testing.assert_array_equal, tree, expected)
    places = [x.sharding for x in jax.tree.leaves(program.abstract.params)]
    assert [x.sharding for x in jax.tree.leaves(state.params)] == places
    logits = program.model.apply({"params": state.params}, np.zeros((2, 144), np.int32))
    assert np.isfinite(logits).all()


def test_tables_that_are_missing_start_at_zero_on_the_new_grid():
    cfg, program = run("interpolate", grid=(12, 12), any_order=True)
    check_initial(program.abstract, cfg, weights())
    state = init_from_pretrained(program.init(), weights(), cfg.model.grid)
    assert state.params["wpe_source"].shape == (144, 16)
    assert not state.params["wpe_source"].any()


def test_what_cannot_be_interpolated_is_refused():
    prefix = {"prefix_slots": 4, "prefix_values": 3}
    asked = {"init_grid": "interpolate", "grid": (12, 12)} | prefix
    refused("prefix_wpe is not interpolated", check, weights(**prefix), **asked)
    clips = weights(grid=(2, 8, 8))
    refused("grid is (2, 8, 8) there and (3, 8, 8) here", check, clips, init_grid="interpolate", grid=(3, 8, 8))
    check(clips, init_grid="interpolate", grid=(2, 6, 4))
    check(weights(), init_grid="interpolate", grid=(3, 6, 4))
    check(weights(), init_grid="interpolate")


def test_the_setting_belongs_to_the_run():
    cfg = Config(init_from="a")
    other = dataclasses.replace(cfg, init_grid="interpolate")
    assert differences(cfg, other) == {"init_grid": ("same", "interpolate")}
    refused("init_grid: interpolate resizes", dataclasses.replace, other, init_from=None)
    refused("init_grid: must be one of same, interpolate; got 'near'", dataclasses.replace, cfg, init_grid="near")


def test_a_model_of_clips_keeps_its_frames_when_it_starts_from_one_of_pictures():
    asked, pictures = ModelConfig(**SIZES | {"grid": (5, 9, 9)}), ModelConfig(**SIZES)
    assert model_from_weights(asked, pictures).grid == (5, 8, 8)
    assert model_from_weights(asked, dataclasses.replace(pictures, grid=(2, 8, 8))).grid == (2, 8, 8)
    assert model_from_weights(pictures, asked).grid == (5, 9, 9)
