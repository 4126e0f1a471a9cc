"""Whole small runs of every objective, and runs that begin with the weights of another."""

import dataclasses
import os
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from igpt_jax import InputError, Palette, load_pretrained, sample
from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig
from igpt_jax.experiment import train
from igpt_jax.figures import held_out_figures
from igpt_jax.training.loop import Interrupted
from igpt_jax.training.pretrained import save_pretrained
from tests.training.test_resume import at_step

MODEL = ModelConfig(grid=(8, 8), vocab_size=17, n_layer=1, n_head=2, d_model=16)
CFG = Config(
    name="small",
    model=MODEL,
    data=DataConfig(source="digits", channels=1),
    palette=PaletteConfig("levels"),
    optim=OptimConfig(lr=1e-2, warmup_steps=1, ema_decay=0.5),
    train=TrainConfig(steps=6, batch_size=16, log_every=2, eval_every=6, checkpoint_every=6, eval_batch_size=304),
)


def changed(cfg=CFG, objective="ar", model=None, train=None, palette=None):
    return dataclasses.replace(
        cfg,
        objective=objective,
        model=dataclasses.replace(cfg.model, **(model or {})),
        train=dataclasses.replace(cfg.train, **(train or {})),
        palette=palette or cfg.palette,
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    train(CFG, workdir)
    return workdir


def test_bert_run(tmp_path):
    cfg = changed(objective="bert", model={"causal": False}, train={"sample_every": 6})
    report = train(cfg, tmp_path / "run")
    assert report.figures.metric == "nats_per_masked_token"
    assert 1 < report.figures.nats["model"] < np.log(17)
    assert [path.name for path in report.pictures] == ["reconstructions.png", "loss.png"]
    assert all(path.stat().st_size > 1000 for path in report.pictures)
    assert (tmp_path / "run" / "samples" / "step_00000006.png").exists()
    found = load_pretrained(tmp_path / "run")
    assert held_out_figures(found).nats["model"] == pytest.approx(report.figures.nats["model"], rel=1e-5)
    with pytest.raises(InputError, match="BERT"):
        sample(found.model, found.params, found.colors)


def test_joint_run_learns_classes_from_pretrained_weights(pretrained, tmp_path):
    """Dark and light noise, so that a few steps tell the classes apart; guessing would get half of them right."""
    for name, low in (("dark", 0), ("light", 128)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(60):
            noise = np.random.default_rng((low, i)).integers(low, low + 128, (8, 8), np.uint8)
            Image.fromarray(noise).save(tmp_path / "pictures" / name / f"{i}.png")
    steps = {"steps": 12, "eval_every": 12, "checkpoint_every": 12}
    cfg = changed(objective="joint", model={"clf_classes": 2}, train={"init_from": str(pretrained), **steps})
    data = DataConfig(source=f"folder:{tmp_path / 'pictures'}", holdout=0.3, channels=1)
    cfg = dataclasses.replace(cfg, data=data)
    report = train(cfg, tmp_path / "run")
    assert report.figures.images > 20
    assert report.figures.accuracy is not None
    assert report.figures.accuracy > 0.9
    before, after = load_pretrained(pretrained), load_pretrained(tmp_path / "run")
    assert np.asarray(after.params["clf"]).any()
    moved = np.abs(np.asarray(after.params["wte"]) - np.asarray(before.params["wte"])).max()
    assert 0 < moved < 0.2  # begun there, and gone on
    assert held_out_figures(after).accuracy == pytest.approx(report.figures.accuracy)


def test_a_run_begins_exactly_at_its_initial_weights_and_is_continued_without_them(pretrained, tmp_path):
    source = tmp_path / "source"
    save_pretrained(load_pretrained(pretrained), source)
    cfg = changed(model={"cond_classes": 10, "use_bias": True}, train={"init_from": str(source)})
    cfg = dataclasses.replace(cfg, optim=OptimConfig(lr=1e-30, warmup_steps=1, ema_decay=0.5))
    with pytest.raises(Interrupted):
        train(cfg, tmp_path / "run", on_step=at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    begun, given = load_pretrained(tmp_path / "run"), load_pretrained(source)
    for name in ("wpe", "wte", "sos", "wtet"):
        np.testing.assert_array_equal(begun.params[name], given.params[name])
    tokens = np.random.default_rng(0).integers(0, 17, (2, 64))
    expected = given.model.apply({"params": given.params}, tokens)
    np.testing.assert_array_equal(begun.model.apply({"params": begun.params}, tokens), expected)
    source.rename(tmp_path / "gone")
    assert train(cfg, tmp_path / "run").step == 6


def test_class_conditional_run_draws_what_is_asked_for(tmp_path):
    report = train(changed(model={"cond_classes": 10}), tmp_path / "run")
    found = load_pretrained(tmp_path / "run")
    assert np.asarray(found.params["class_table"]).any()
    loud = found.params | {"class_table": 100 * found.params["class_table"]}

    def draw(classes):
        return sample(found.model, loud, found.colors, 2, classes=classes, temperature=0)

    one, seven = draw([1, 7])
    assert (one != seven).any()
    np.testing.assert_array_equal(draw(-1), draw(None))
    assert (draw(None)[0] != one).any()
    for bad in ([1], [0, 10], -2, 0.5):
        with pytest.raises(InputError, match="classes: one integer"):
            draw(bad)
    assert report.pictures[0].name == "samples.png"


def test_weights_that_do_not_fit_are_named_before_anything_is_written(pretrained, tmp_path):
    for model, named in (
        ({"d_model": 32}, "wte is .*; wtet is"),
        ({"n_layer": 2}, "h/attn/q_proj/w is"),
        ({"causal": False}, "sos is not in this model"),
        ({"grid": (4, 16)}, "grid"),
    ):
        cfg = changed(
            objective="ar" if model.get("causal", True) else "bert", model=model, train={"init_from": str(pretrained)}
        )
        with pytest.raises(InputError, match=named):
            train(cfg, tmp_path / "run")
    with pytest.raises(InputError, match="nowhere"):
        train(changed(train={"init_from": "nowhere"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_palette_of_the_weights(pretrained, tmp_path, caplog):
    found = load_pretrained(pretrained)
    other = Palette(np.linspace(-0.9, 0.8, 17, dtype=np.float32)[:, None])
    save_pretrained(dataclasses.replace(found, palette=other), tmp_path / "source")
    init = {"init_from": str(tmp_path / "source"), "steps": 2, "eval_every": 2}
    train(changed(train=init, palette=PaletteConfig("pretrained")), tmp_path / "a")
    assert Palette.load(tmp_path / "a" / "palette.npy").same_as(other)
    assert "palette is not that of" not in caplog.text
    train(changed(train=init), tmp_path / "b")
    assert "palette is not that of" in caplog.text
    save_pretrained(dataclasses.replace(found, palette=None), tmp_path / "none")
    bare = {"init_from": str(tmp_path / "none")}
    with pytest.raises(InputError, match="holds no palette"):
        train(changed(train=bare, palette=PaletteConfig("pretrained")), tmp_path / "c")
    with pytest.raises(InputError, match=r"train\.init_from"):
        changed(palette=PaletteConfig("pretrained"))


def test_no_run_goes_on_in_a_workdir_of_weights(pretrained, tmp_path):
    found = load_pretrained(pretrained)
    save_pretrained(found, tmp_path / "w")
    again = load_pretrained(tmp_path / "w")
    assert (again.step, again.data) == (6, {})
    jax.tree.map(np.testing.assert_array_equal, again.params, found.params)
    with pytest.raises(InputError, match="begin with them in another"):
        train(dataclasses.replace(CFG, optim=dataclasses.replace(CFG.optim, ema_decay=None)), tmp_path / "w")
    with pytest.raises(InputError, match="holds something already"):
        save_pretrained(found, tmp_path / "w")


def test_classes_must_be_there(tmp_path):
    with pytest.raises(InputError, match="clf_classes: 9, but digits has 10 classes"):
        train(changed(objective="joint", model={"clf_classes": 9}), tmp_path / "run")
