"""Configurations survive JSON, refuse nonsense by name, and know which keys make another run."""

import dataclasses

import pytest

from igpt_jax.config import ComputeConfig, Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig
from igpt_jax.config_json import FIXED, differences, flatten, from_json, to_json
from igpt_jax.errors import InputError


def test_json_round_trip_of_non_default_values():
    cfg = Config(
        seed=7,
        model=ModelConfig(grid=(4, 6), vocab_size=9, n_layer=1, n_head=3, d_model=12),
        compute=ComputeConfig(remat="dots"),
        optim=OptimConfig(lr=1.0, clip_norm=None, ema_decay=0.5),
        data=DataConfig(batch_size=4),
        train=TrainConfig(steps=3),
    )
    assert from_json(Config, to_json(cfg)) == cfg
    assert hash(from_json(Config, to_json(cfg))) == hash(cfg)  # usable as a static argument


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"modle": {}}', "modle"),
        ('{"model": {"n_layers": 3}}', "did you mean 'n_layer'"),
        ('{"optim": {"lr": "fast"}}', "optim.lr"),
        ('{"compute": {"dtype": "float8"}}', "compute.dtype"),
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
        (lambda: ComputeConfig(remat="all"), "compute.remat: must be one of none, dots, full; got 'all'"),
        (lambda: DataConfig(augment="imgnet"), "data.augment"),
        (lambda: DataConfig(channels=2), "data.channels"),
        (lambda: OptimConfig(schedule="linear"), "optim.schedule"),
        (lambda: OptimConfig(lr=float("inf")), "optim.lr"),
        (lambda: OptimConfig(eps=-1.0), "optim.eps"),
        (lambda: PaletteConfig(path="p.npy"), "palette.path"),
        (lambda: Config(seed=2**32), "seed"),
        (lambda: ModelConfig.preset("xxl"), "s, m, l, xl"),
        (lambda: ModelConfig.preset("s", n_layers=3), "did you mean 'n_layer'"),
        (lambda: DataConfig(batch_size=-1), "data.batch_size: must be at least 1, not -1"),
        (lambda: Config(data=DataConfig(batch_size=8), train=TrainConfig(microbatches=3)), "train.microbatches"),
        (lambda: ModelConfig(causal=False, any_order=True), "model.any_order"),
        (lambda: ModelConfig(prefix_slots=4), "model.prefix_values"),
        (lambda: OptimConfig(lr=0), "optim.lr"),
        (lambda: PaletteConfig(kind="file"), "palette.path"),
        (lambda: Config(palette=PaletteConfig("levels")), "data.channels"),
        (lambda: Config(optim=OptimConfig(warmup_steps=5), train=TrainConfig(steps=5)), "optim.warmup_steps"),
    ],
)
def test_nonsense_is_refused_by_name(make, named):
    with pytest.raises(InputError, match=named):
        make()


def test_what_may_change_on_resume_follows_from_the_section():
    cfg = Config()
    assert {key.partition(".")[0] for key in flatten(cfg)} >= set(FIXED)  # no section that does not exist
    longer = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, steps=7, log_every=3))
    assert differences(cfg, dataclasses.replace(longer, compute=ComputeConfig(remat="full"))) == {}
    other = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, lr=0.5), init_from="x")
    assert differences(cfg, other) == {"optim.lr": (0.003, 0.5), "init_from": (None, "x")}
