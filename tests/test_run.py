"""Whole small runs of every objective, runs that start from other weights, and custom parts."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from igpt_jax import ComputeConfig, Palette, SamplerConfig, load_pretrained, probe, report, sample, train
from igpt_jax.config import DataConfig, ModelConfig, OptimConfig, PaletteConfig
from igpt_jax.data.sources import Source
from igpt_jax.evaluation import Evaluator, Figure
from igpt_jax.evaluation.evaluate import evaluate
from igpt_jax.objectives import Objective, batch_tokens
from igpt_jax.pretrained import save_pretrained
from igpt_jax.run import Extensions, prepare
from igpt_jax.sampling.tasks import draw_classes
from igpt_jax.sequence import Example, ordered_inputs
from igpt_jax.training.loop import Interrupted
from tests import small_run
from tests.data.made import refused
from tests.small_run import at_step

CFG = dataclasses.replace(
    small_run.CFG,
    optim=OptimConfig(lr=1e-2, warmup_steps=1, ema_decay=0.5),
    train=dataclasses.replace(small_run.CFG.train, steps=6, log_every=2, eval_every=6, checkpoint_every=6),
)


def changed(objective="ar", model=None, train=None, palette=None, init_from=None):
    return dataclasses.replace(
        CFG,
        objective=objective,
        init_from=init_from,
        model=dataclasses.replace(CFG.model, **(model or {})),
        train=dataclasses.replace(CFG.train, **(train or {})),
        palette=palette or CFG.palette,
    )


def test_bert_run(tmp_path):
    cfg = changed(objective="bert", model={"causal": False}, train={"sample_every": 6})
    trained = train(cfg, tmp_path / "run")
    shown, nats = report(trained), trained.figures.values["nats_per_masked_token"]
    assert 1 < nats < np.log(17)
    assert [path.name for path in shown.pictures] == ["reconstructions.png", "loss.png"]
    assert all(path.stat().st_size > 1000 for path in shown.pictures)
    assert (tmp_path / "run" / "samples" / "step_00000006.png").exists()
    bert = load_pretrained(tmp_path / "run")
    assert evaluate(bert).values["nats_per_masked_token"] == pytest.approx(nats, rel=1e-5)
    refused("BERT", sample, bert.model, bert.params, bert.colors)


def test_joint_run_learns_classes_from_pretrained_weights(straight, tmp_path):
    """Dark and light noise, so that a few steps tell the classes apart; guessing would get half of them right."""
    for name, low in (("dark", 0), ("light", 128)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(60):
            noise = np.random.default_rng((low, i)).integers(low, low + 128, (8, 8), np.uint8)
            Image.fromarray(noise).save(tmp_path / "pictures" / name / f"{i}.png")
    steps = {"steps": 12, "eval_every": 12, "checkpoint_every": 12}
    cfg = changed(objective="joint", model={"clf_classes": 2}, train=steps, init_from=str(straight))
    data = DataConfig(source=f"folder:{tmp_path / 'pictures'}", batch_size=16, holdout=0.3, channels=1)
    trained = train(dataclasses.replace(cfg, data=data), tmp_path / "run")
    assert len(trained.context.held_out) > 20
    assert trained.figures.values["clf_accuracy"] > 0.9
    before, after = load_pretrained(straight), load_pretrained(tmp_path / "run")
    assert np.asarray(after.params["clf"]).any()
    moved = np.abs(np.asarray(after.params["wte"]) - np.asarray(before.params["wte"])).max()
    assert 0 < moved < 0.2  # it started there, and moved on
    assert evaluate(after).accuracy == pytest.approx(trained.figures.values["clf_accuracy"])


def test_a_run_starts_exactly_at_its_initial_weights_and_is_continued_without_them(straight, tmp_path):
    source = tmp_path / "source"
    save_pretrained(load_pretrained(straight), source)
    cfg = changed(model={"cond_classes": 10, "use_bias": True, "any_order": True}, init_from=str(source))
    cfg = dataclasses.replace(cfg, optim=OptimConfig(lr=1e-30, warmup_steps=1, ema_decay=0.5))
    with pytest.raises(Interrupted):
        train(cfg, tmp_path / "run", on_step=at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    started, weights = load_pretrained(tmp_path / "run"), load_pretrained(source)
    for name in ("wpe", "wte", "sos", "wtet"):
        np.testing.assert_array_equal(started.params[name], weights.params[name])
    tokens = np.random.default_rng(0).integers(0, 17, (2, 64))
    expected = weights.model.apply({"params": weights.params}, tokens)
    np.testing.assert_array_equal(started.model.apply({"params": started.params}, tokens), expected)
    source.rename(tmp_path / "gone")
    assert train(cfg, tmp_path / "run").step == 6


def test_class_conditional_run_draws_what_is_asked_for(tmp_path):
    train(changed(model={"cond_classes": 10}), tmp_path / "run")
    trained = load_pretrained(tmp_path / "run")
    assert np.asarray(trained.params["class_table"]).any()
    loud = trained.params | {"class_table": jax.random.normal(jax.random.key(0), (10, 16))}

    def draw(classes, n=32):
        return sample(trained.model, loud, trained.colors, n, classes=classes)

    sevens, mixed = draw(7), draw([1, 7] * 16)  # image i has the same key in both
    assert (mixed[::2] != sevens[::2]).any()
    np.testing.assert_array_equal(mixed[1::2], sevens[1::2])
    np.testing.assert_array_equal(draw(draw_classes(trained.model.cfg, 32, 0)), draw(None))
    assert (draw(-1) != sevens).any()
    assert sum(trained.class_counts) == 1500
    assert len(trained.class_counts) == 10
    for bad in ([1], [0, 10], -2, 0.5):
        refused("classes: must be one or 2 integers", draw, bad, 2)
    assert trained.class_names == tuple("0123456789")
    refused("other classes", evaluate, dataclasses.replace(trained, class_names=("cat", "dog")))


def test_weights_that_do_not_fit_are_named_before_anything_is_written(straight, tmp_path):
    """All that may not fit: tests/test_initial.py."""
    wider = changed(model={"d_model": 32}, init_from=str(straight))
    refused("d_model is 16 there and 32 here", train, wider, tmp_path / "run")
    refused("nowhere", train, changed(init_from="nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_palette_of_the_weights(straight, tmp_path, caplog):
    weights = load_pretrained(straight)
    other = Palette(np.linspace(-0.9, 0.8, 17, dtype=np.float32)[:, None])
    save_pretrained(dataclasses.replace(weights, palette=other), tmp_path / "source")
    source = str(tmp_path / "source")

    def palette_of(kind):
        cfg = changed(palette=PaletteConfig(kind), init_from=source)
        return prepare(cfg, tmp_path / "run", Extensions()).palette

    for kind in ("pretrained", "kmeans"):  # a fitted one would give the tokens other colours
        assert palette_of(kind).same_as(other)
    assert "palette differs from that of" not in caplog.text
    assert palette_of("levels").same_as(Palette.levels(17))
    assert "palette differs from that of" in caplog.text
    save_pretrained(dataclasses.replace(weights, palette=None), tmp_path / "none")
    without = changed(palette=PaletteConfig("pretrained"), init_from=str(tmp_path / "none"))
    refused("holds no palette", train, without, tmp_path / "c")
    refused("init_from", changed, palette=PaletteConfig("pretrained"))


def test_no_run_continues_in_a_workdir_of_weights(straight, tmp_path):
    weights = load_pretrained(straight)
    save_pretrained(weights, tmp_path / "w")
    again = load_pretrained(tmp_path / "w")
    assert (again.step, again.data) == (10, {})
    jax.tree.map(np.testing.assert_array_equal, again.params, weights.params)
    same = dataclasses.replace(small_run.CFG, optim=dataclasses.replace(small_run.CFG.optim, ema_decay=None))
    for cfg in (same, changed(train={"steps": 7}), dataclasses.replace(same, seed=3)):  # the settings are not to blame
        refused("start from them in another --workdir with --init-from", train, cfg, tmp_path / "w")
    refused("holds something already", save_pretrained, weights, tmp_path / "w")


def test_what_does_not_fit_the_objective_is_refused_before_anything_is_written(tmp_path):
    for cfg, reason in (
        (changed(objective="joint", model={"clf_classes": 9}), "clf_classes: 9, but digits has 10 classes"),
        (changed(objective="bert"), "model.causal: must be False"),
        (dataclasses.replace(CFG, model=ModelConfig(grid=(4, 4, 4), vocab_size=17)), "model.grid"),
        (dataclasses.replace(CFG, sampler=SamplerConfig(order="random")), "random needs model.any_order"),
        (
            dataclasses.replace(CFG, compute=ComputeConfig(attention="flash")),
            "compute.attention: .*; got 'flash'",
        ),
    ):
        refused(reason, train, cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_image_is_measured_if_asked_for(straight):
    """The mean over all images is that over both halves."""
    weights = load_pretrained(straight)
    held_out, train_half, every = (evaluate(weights, split=split) for split in ("eval", "train", "all"))
    assert (held_out.images, train_half.images, every.images) == (297, 1500, 1797)
    assert train_half.loss.value != pytest.approx(held_out.loss.value, rel=1e-4)
    mean = (297 * held_out.loss.value + 1500 * train_half.loss.value) / 1797
    assert every.loss.value == pytest.approx(mean, rel=1e-5)
    refused(r"evaluators: no evaluator 'order'; did you mean 'orders'\?", evaluate, weights, evaluators=["order"])
    refused(r"orders: this model reads images in raster order only", evaluate, weights, evaluators=["orders"])


@pytest.fixture
def folder_run(tmp_path, monkeypatch):
    """A finished run on pictures that were named from the directory above them, and its configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for i in range(20):
        picture(tmp_path / "pictures" / f"{i}.png", i)
    data = DataConfig(source="folder:pictures", batch_size=16, holdout=0.3, channels=1)
    cfg = dataclasses.replace(changed(train={"steps": 2, "eval_every": 2}), data=data)
    return train(cfg, tmp_path / "run").workdir, cfg


def picture(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)).save(path)


def test_a_run_finds_its_pictures_from_every_directory(folder_run, tmp_path, monkeypatch):
    workdir, cfg = folder_run
    monkeypatch.chdir("/")
    weights = load_pretrained(workdir)
    assert 4 <= evaluate(weights).images < 20
    assert evaluate(weights, split="all").images == 20
    there = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, source=f"folder:{tmp_path}/pictures"))
    assert train(there, workdir).step == 2
    refused("there is no folder '/pictures'", train, cfg, workdir)
    (tmp_path / "pictures" / "3.png").unlink()
    refused(r"does not hold the images of the run \(it had 20, there are 19\)", evaluate, weights)


def test_a_run_that_stored_a_relative_path_is_continued(tmp_path, monkeypatch, request):
    """As those of earlier versions did."""
    with monkeypatch.context() as earlier:
        earlier.setattr("igpt_jax.run.with_absolute_source", lambda cfg: cfg)
        workdir, cfg = request.getfixturevalue("folder_run")
    assert '"folder:pictures"' in (workdir / "config.json").read_text()
    assert train(cfg, workdir).step == 2
    assert f'"folder:{tmp_path}/pictures"' in (workdir / "config.json").read_text()


def test_the_limit_of_unreadable_pictures_may_change_but_not_the_pictures(folder_run, tmp_path):
    """Who is told to raise the limit can do it; who added a picture is told what it means."""
    workdir, cfg = folder_run
    longer = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, steps=4))
    more = dataclasses.replace(longer, data=dataclasses.replace(cfg.data, max_unreadable=0.2))
    (tmp_path / "pictures" / "3.png").write_bytes(b"")
    refused(r"raise data\.max_unreadable", train, longer, workdir)
    assert train(more, workdir).step == 4
    picture(tmp_path / "pictures" / "new.png", 99)
    line = refused(r"\(20 then, 21 now; changed: \w+\); .* only on the same images", train, more, workdir)
    assert f"--init-from {workdir} --workdir NEW" in line
    (tmp_path / "pictures" / "new.png").rename(tmp_path / "new.png")
    assert train(more, workdir).step == 4


class Noise(Source):
    """A custom source: a few pictures in memory."""

    def __len__(self):
        return 20

    def read(self, i, rng):
        return {"image": np.random.default_rng(i).integers(0, 256, (8, 8, 1), np.uint8), "label": -1}


def make_backwards(cfg, palette):
    """A custom objective: the last pixel first."""

    def example(batch, keys_B):
        tokens_BT = batch_tokens(palette, batch)[:, ::-1]
        order_BT = jnp.arange(cfg.model.n_ctx)[None, ::-1]
        return Example(ordered_inputs(tokens_BT, order_BT), tokens_BT, jnp.ones(tokens_BT.shape) / cfg.model.n_ctx)

    return Objective(example, "nats_per_token_backwards", pictures=())


def make_brightness(context):
    """A custom evaluator."""

    def measure(params, batch, keys_B):
        return {"brightness": (batch["image"].mean((1, 2, 3)), batch["weight"])}

    return Evaluator(measure, {"brightness": Figure()})


def test_parts_of_ones_own_are_passed_as_objects_and_must_come_back(tmp_path):
    source, own = {"train": Noise(), "eval": Noise()}, {"brightness": make_brightness}
    parts = {"source": source, "objective": make_backwards, "evaluators": own}
    trained = train(changed(), tmp_path / "run", **parts)
    assert trained.figures.values.keys() == {"nats_per_token_backwards", "brightness"}
    assert 2 < trained.figures.values["nats_per_token_backwards"] < 4
    assert [path.name for path in report(trained).pictures] == ["loss.png"]
    assert train(changed(), tmp_path / "run", **parts).step == 6
    weights, given = load_pretrained(tmp_path / "run"), {"source": source, "objective": make_backwards}
    assert evaluate(weights, **given).values == pytest.approx(
        {"nats_per_token_backwards": trained.figures.values["nats_per_token_backwards"]}
    )
    for call in (evaluate, probe):
        refused(r"does not hold the images of the run .* pass the source", call, weights, objective=make_backwards)
        refused(r"trained with tests.test_run.make_backwards, and none is passed", call, weights, source=source)
    for part, reason in (
        ("source", "no longer holds the images"),
        ("objective", r"objective: .* was started with tests.test_run.make_backwards, and this is none"),
        ("evaluators", r"evaluators: .* was started with brightness=tests.test_run.make_brightness, and this is none"),
    ):
        others = {k: v for k, v in parts.items() if k != part}
        refused(reason, train, changed(train={"steps": 7}), tmp_path / "run", **others)


def test_validation_images_are_measured_while_training_and_held_out_ones_afterwards(tmp_path):
    cfg = dataclasses.replace(changed(train={"steps": 2}), data=dataclasses.replace(CFG.data, validation=0.1))
    trained = train(cfg, tmp_path / "run")
    figures = trained.figures
    assert (figures.images, figures.kind) == (150, "validation")
    weights = load_pretrained(tmp_path / "run")
    figures = {split: evaluate(weights, split=split) for split in ("eval", "validation", "train", "all")}
    sizes = {split: (f.images, f.kind) for split, f in figures.items()}
    assert sizes == {
        "eval": (297, "held-out"),
        "validation": (150, "validation"),
        "train": (1350, "training"),
        "all": (1797, ""),
    }
    assert figures["validation"].loss.value == pytest.approx(trained.figures.values["nats_per_token"])
