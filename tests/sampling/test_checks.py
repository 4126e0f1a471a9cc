"""What a model cannot draw is refused: by the one check of a request, by each task, and by a run before it trains."""

import dataclasses

import numpy as np
import pytest

from igpt_jax import (
    Config,
    InputError,
    ModelConfig,
    Palette,
    SamplerConfig,
    complete,
    continue_clip,
    in_between,
    inpaint,
    restore,
    sample,
    sample_clips,
    train,
)
from igpt_jax.config import DataConfig
from igpt_jax.evaluation.pictures import check_pictures
from igpt_jax.objectives import make_objective
from igpt_jax.sampling.checks import check_counts, check_request, checked_images, checked_mask, class_ids, pick_method
from igpt_jax.sampling.methods import METHODS
from tests.sampling.toy import PALETTE, toy
from tests.small_run import CFG

GRIDS = dict(grid=(4, 4), vocab_size=16, n_layer=1, n_head=2, d_model=16)
MODELS = {
    "raster": {},
    "classes": dict(cond_classes=3),
    "any": dict(any_order=True, cond_classes=3),
    "bert": dict(causal=False),
    "restorer": dict(aligned_values=9),
    "clips": dict(grid=(3, 2, 2)),
    "class clips": dict(grid=(3, 2, 2), cond_classes=3),
}


def cfg(name):
    return ModelConfig(**GRIDS | MODELS[name])


@pytest.mark.parametrize(
    ("model", "task", "settings", "classes", "reason"),
    [
        ("raster", "restore", {}, None, "model: does not restore"),
        ("restorer", "sample", {}, None, "model: reads a degraded picture"),
        ("restorer", "inpaint", {}, None, "model: reads a degraded picture"),
        ("bert", "complete", {}, None, "model.causal: a BERT model"),
        ("raster", "clips", {}, None, r"model.grid: \(4, 4\) is one of pictures"),
        (
            "raster",
            "sample",
            dict(order="rastr"),
            None,
            "sampler.order: must be one of raster, .*; got 'rastr'; did",
        ),
        ("raster", "sample", dict(order="random"), None, "random needs model.any_order"),
        ("raster", "inpaint", dict(order="random"), None, "random needs model.any_order"),
        ("restorer", "restore", dict(order="random"), None, "sampler.order: 'random' is not possible for restorations"),
        ("clips", "clips", dict(order="random"), None, "'random' does not draw one frame after another"),
        ("raster", "inpaint", dict(method="smd"), None, "sampler.method: must be one of .*; did you mean 'smc'"),
        ("raster", "inpaint", dict(method="ardm"), None, "ardm needs a BERT model .*; this model supports smc, clamp"),
        ("bert", "inpaint", dict(method="smc"), None, "smc needs a causal model"),
        (
            "bert",
            "inpaint",
            dict(lookahead=8),
            None,
            "lookahead: is not supported by method ardm; leave it at auto",
        ),
        (
            "bert",
            "inpaint",
            dict(cache="int8"),
            None,
            "cache: is not supported by method ardm; leave it at auto",
        ),
        ("raster", "inpaint", dict(lookahead=8), None, "not supported by method smc"),
        ("raster", "sample", dict(guidance=2), None, "sampler.guidance: this model has no classes"),
        ("classes", "complete", dict(guidance=2), [-1, -1], "sampler.guidance: needs an image with a class"),
        ("classes", "inpaint", dict(guidance=2), [1], "sampler.guidance: is for new images and completions"),
        ("class clips", "clips", dict(guidance=2), None, "sampler.guidance: is for new images and completions"),
    ],
)
def test_a_request_is_refused(model, task, settings, classes, reason):
    with pytest.raises(InputError, match=reason):
        check_request(cfg(model), task, SamplerConfig(**settings), classes)


@pytest.mark.parametrize(
    ("model", "task", "classes"),
    [
        ("classes", "sample", [1, -1]),
        ("classes", "complete", None),
        ("classes", "inpaint", None),
        ("class clips", "clips", None),
    ],
)
def test_a_model_that_was_always_told_the_class_does_not_draw_without_one(model, task, classes):
    plain = SamplerConfig()
    with pytest.raises(InputError, match=r"class_dropout: 0 in this run, .* without a class; (name a|train with)"):
        check_request(cfg(model), task, plain, classes, class_dropout=0.0)
    check_request(cfg(model), task, plain, classes, class_dropout=0.1)
    check_request(cfg(model), task, plain, [1, 2], class_dropout=0.0)
    check_request(cfg(model), task, plain, classes)  # not known of weights alone
    if task in ("sample", "complete"):
        with pytest.raises(InputError, match="leave guidance at 1"):
            check_request(cfg(model), task, SamplerConfig(guidance=2), [1, 2], class_dropout=0.0)


@pytest.mark.parametrize(
    ("objective", "model", "settings", "reason"),
    [
        ("ar", "raster", dict(guidance=2), "sampler.guidance: this model has no classes"),
        ("any_order", "any", dict(guidance=2), "sampler.guidance: is for new images and completions"),
        ("ardm", "bert", dict(lookahead=16), "sampler.lookahead: is not supported by method ardm"),
        ("ardm", "bert", dict(method="smc"), "sampler.method: smc needs a causal model"),
        ("restore", "restorer", dict(order="known_first"), "sampler.order: 'known_first' is not possible"),
        ("ar", "raster", dict(order="random"), "random needs model.any_order"),
        ("ar", "classes", dict(guidance=2), None),
        ("ar", "classes", dict(), None),
        ("ardm", "bert", dict(order="random"), None),
    ],
)
def test_a_run_whose_pictures_could_not_be_drawn_is_refused_before_it_trains(objective, model, settings, reason):
    degrade = ("gaussian:0.1",) if objective == "restore" else ()
    run = Config(
        objective=objective,
        class_dropout=0.0,
        model=cfg(model),
        data=DataConfig(channels=1, degrade=degrade),
        sampler=SamplerConfig(**settings),
    )
    names = make_objective(run, Palette.levels(16)).pictures
    if settings.get("guidance"):
        run = dataclasses.replace(run, class_dropout=0.1)
    if reason is None:
        check_pictures(run, names)
    else:
        with pytest.raises(InputError, match=reason):
            check_pictures(run, names)


def test_a_refused_run_has_written_nothing(tmp_path):
    with pytest.raises(InputError, match=r"sampler\.guidance"):
        train(dataclasses.replace(CFG, sampler=SamplerConfig(guidance=2.0)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "expected"), [("any", "any_order"), ("raster", "smc"), ("bert", "ardm")])
def test_auto_takes_the_best_that_a_model_supports(name, expected):
    assert pick_method(cfg(name), "auto") == expected == next(m for m in METHODS if METHODS[m].fits(cfg(name)))


PICTURES = np.zeros((2, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (lambda: check_counts(n=1, n_new=0), "n_new: must be at least 1; got 0"),
        (
            lambda: checked_images(PICTURES[:0], (4, 4), PALETTE),
            r"images: must be uint8 \[B, 4, 4, 1\]; got .* \(0, 4",
        ),
        (lambda: checked_images(PICTURES / 2, (4, 4), PALETTE), "float64"),
        (lambda: checked_images(PICTURES[0], (4, 4), PALETTE), r"got uint8 \(4, 4, 1\)"),
        (lambda: checked_images(PICTURES, (4, 3), PALETTE), r"got uint8 \(2, 4, 4, 1\)"),
        (
            lambda: checked_images(PICTURES, (4, 5), PALETTE, larger=True),
            r"\[B, 4, 5, 1\] or larger; enlarge",
        ),
        (lambda: checked_images(PICTURES.repeat(3, -1), (4, 4), PALETTE, larger=True), r"\(2, 4, 4, 3\)"),
        (
            lambda: checked_images(PICTURES[:, :0, None], (0, 1, 4), PALETTE, "last"),
            r"last: must be uint8 \[B, frames",
        ),
        (
            lambda: checked_mask(np.ones((4, 3), bool), PICTURES),
            r"known: must be bool \(4, 4\) or \(2, 4, 4\); got bool",
        ),
        (lambda: checked_mask(np.ones((4, 4)), PICTURES), "float64"),
        (
            lambda: class_ids(cfg("classes"), [0, 3], 2),
            r"classes: must be one or 2 integers in 0..2, .*got \[0, 3\]",
        ),
        (lambda: class_ids(cfg("raster"), 1, 2), "not trained with classes"),
    ],
)
def test_arguments_are_named(check, reason):
    with pytest.raises(InputError, match=reason):
        check()


RGB = np.zeros((1, 2, 2, 3), np.uint8)
CLIPS = toy(grid=(3, 1, 2), any_order=True)
FRAMES = np.zeros((2, 2, 1, 2, 1), np.uint8)
KNOWN = np.array([[True, True], [False, True]])


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: sample(*toy(causal=False), PALETTE), "BERT"),
        (lambda: complete(*toy(causal=False), PALETTE, RGB), "images"),
        (lambda: complete(*toy(), PALETTE, RGB[..., :1], KNOWN, sampler=SamplerConfig(order="random")), "any_order"),
        (lambda: inpaint(*toy(), PALETTE, RGB, KNOWN), "images"),
        (lambda: inpaint(*toy(), PALETTE, RGB[..., :1], KNOWN, sampler=SamplerConfig(guidance=2)), "guidance"),
        (
            lambda: inpaint(*toy(), PALETTE, RGB[..., :1], np.ones((2, 2), bool)),
            "picture 0 has no unknown pixel",
        ),
        (lambda: inpaint(*toy(), PALETTE, RGB[..., :1], np.zeros((2, 2), bool)), "no known pixel"),
        (lambda: restore(*toy(), PALETTE, RGB), "does not restore"),
        (lambda: sample_clips(*toy(), PALETTE), "pictures"),
        (lambda: sample_clips(*CLIPS, PALETTE, 1, 0), "frames: must be at least 1"),
        (
            lambda: continue_clip(*CLIPS, PALETTE, FRAMES, 2, keep=3),
            r"keep: must be in 1..2 of .* 3 frames; got 3",
        ),
        (lambda: continue_clip(*CLIPS, PALETTE, FRAMES[:, 0], 2), "frames: must be uint8"),
        (lambda: in_between(*toy(grid=(3, 1, 2)), PALETTE, FRAMES, FRAMES), "need a model of any order"),
        (lambda: in_between(*CLIPS, PALETTE, FRAMES, FRAMES), "leave some of 3 frames to draw"),
        (lambda: in_between(*CLIPS, PALETTE, FRAMES[:1, :1], FRAMES[:, :1]), "as many clips"),
        (lambda: sample(*toy(), Palette.levels(5)), "palette: 5 colours"),
        (lambda: sample(toy()[0], {}, PALETTE), "params: not the parameters of this model: no h/attn/c_proj/w"),
        (lambda: sample(toy()[0], {"params": toy()[1]}, PALETTE), "pass what is under 'params'"),
        (lambda: sample(toy()[0], toy()[1] | {"wpe": toy()[1]["wpe"][1:]}, PALETTE), "wpe of another shape"),
    ],
)
def test_every_task_checks(call, reason):
    with pytest.raises(InputError, match=reason):
        call()
