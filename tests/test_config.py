"""Configurations survive JSON, refuse nonsense by name, and know which keys make another run."""

import dataclasses

import pytest

from igpt_jax.config import Config, DataConfig, InputError, ModelConfig, OptimConfig, PaletteConfig, TrainConfig
from igpt_jax.config_json import FREE_ON_RESUME, differences, flatten, from_json, to_json


def test_json_round_trip_of_non_default_values():
    cfg = Config(
        seed=7,
        model=ModelConfig(grid=(4, 6), vocab_size=9, n_layer=1, n_head=3, d_model=12, remat="dots"),
        optim=OptimConfig(lr=1.0, clip_norm=None, ema_decay=0.5),
        train=TrainConfig(steps=3, batch_size=4),
    )
    assert from_json(Config, to_json(cfg)) == cfg
    assert hash(from_json(Config, to_json(cfg))) == hash(cfg)  # usable as a static argument


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"modle": {}}', "modle"),
        ('{"model": {"n_layers": 3}}', "did you mean 'n_layer'"),
        ('{"optim": {"lr": "fast"}}', "optim.lr"),
        ('{"model": {"dtype": "float8"}}', "model.dtype"),
        ("{", "run.json"),
        ("[3]", "run.json"),
    ],
)
def test_bad_json_is_named(text, named):
    with pytest.raises(InputError, match=named) as caught:
        from_json(Config, text, "run.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ModelConfig(d_model=10, n_head=3), "model.n_head"),
        (lambda: ModelConfig(grid=(0, 3)), "model.grid"),
        (lambda: ModelConfig(remat="all"), "model.remat: 'all' is none of none, dots, full"),
        (lambda: DataConfig(augment="imgnet"), "data.augment"),
        (lambda: DataConfig(channels=2), "data.channels"),
        (lambda: OptimConfig(schedule="linear"), "optim.schedule"),
        (lambda: OptimConfig(lr=float("inf")), "optim.lr"),
        (lambda: OptimConfig(eps=-1.0), "optim.eps"),
        (lambda: PaletteConfig(path="p.npy"), "palette.path"),
        (lambda: Config(seed=2**32), "seed"),
        (lambda: Config(objective="bart"), "objective"),
        (lambda: ModelConfig.preset("xxl"), "s, m, l, xl"),
        (lambda: ModelConfig.preset("s", n_layers=3), "did you mean 'n_layer'"),
        (lambda: TrainConfig(batch_size=-1), "train.batch_size"),
        (lambda: TrainConfig(batch_size=8, microbatches=3), "train.microbatches"),
        (lambda: OptimConfig(lr=0), "optim.lr"),
        (lambda: PaletteConfig(kind="file"), "palette.path"),
        (lambda: Config(palette=PaletteConfig("levels")), "data.channels"),
        (lambda: Config(optim=OptimConfig(warmup_steps=5), train=TrainConfig(steps=5)), "optim.warmup_steps"),
    ],
)
def test_nonsense_is_refused_by_name(make, named):
    with pytest.raises(InputError, match=named):
        make()


@pytest.mark.parametrize(
    ("name", "published", "exact"),
    [
        ("s", 76e6, 76_571_648),
        ("m", 455e6, 455_157_760),
        ("l", 1362e6, 1_362_250_752),
        ("xl", 6801e6, 6_810_875_904),
    ],
)
def test_presets_have_the_published_parameter_counts(name, published, exact):
    cfg = ModelConfig.preset(name)
    assert cfg.n_params == exact
    assert abs(cfg.n_params - published) / published < 0.01


def test_what_may_change_on_resume():
    cfg = Config()
    assert set(flatten(cfg)) >= FREE_ON_RESUME  # no row that names nothing
    longer = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, steps=7, log_every=3))
    assert differences(cfg, longer) == {}
    other = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, lr=0.5))
    assert differences(cfg, other) == {"optim.lr": (0.003, 0.5)}
