"""What a model cannot draw is refused before a run trains, for every picture it would draw."""

import dataclasses

import pytest

from igpt_jax import InputError, ModelConfig, SamplerConfig, train
from igpt_jax.config import DataConfig
from igpt_jax.sampling.request import check_request
from tests.small_run import CFG

PLAIN = ModelConfig.preset("tiny")
CLASSES = ModelConfig.preset("tiny", cond_classes=3)
ANY = ModelConfig.preset("tiny", any_order=True, cond_classes=3)
BERT = ModelConfig.preset("tiny", causal=False)
RESTORER = ModelConfig.preset("tiny", aligned_values=9)


@pytest.mark.parametrize(
    ("cfg", "task", "sampler", "reason"),
    [
        (PLAIN, "sample", {"guidance": 2.0}, "sampler.guidance: this model has no classes"),
        (ANY, "inpaint", {"guidance": 2.0}, "sampler.guidance: is for new images and completions"),
        (PLAIN, "complete", {"order": "random"}, "sampler.order: this model draws in raster order only"),
        (BERT, "inpaint", {"lookahead": 16}, "sampler.lookahead: is not supported by method ardm"),
        (BERT, "inpaint", {"method": "smc"}, "sampler.method: smc needs a causal model"),
        (ANY, "inpaint", {"order": "spiral"}, "sampler.order: must be one of .*; got 'spiral'"),
        (BERT, "sample", {}, "model.causal: a BERT model"),
        (RESTORER, "sample", {}, "model: draws from a degraded picture"),
        (RESTORER, "restore", {"order": "random"}, "sampler.order: restoration draws in raster order only"),
        (PLAIN, "restore", {}, "model: does not restore"),
    ],
)
def test_requests_that_a_model_cannot_do(cfg, task, sampler, reason):
    with pytest.raises(InputError, match=reason):
        check_request(cfg, task, SamplerConfig(**sampler))


def test_requests_that_it_can_do():
    for cfg, task, sampler in (
        (CLASSES, "sample", {"guidance": 2.0}),
        (ANY, "complete", {"order": "random"}),
        (ANY, "inpaint", {"lookahead": 8}),
        (RESTORER, "restore", {"lookahead": 8}),
    ):
        check_request(cfg, task, SamplerConfig(**sampler))


@pytest.mark.parametrize(
    ("change", "sampler"),
    [
        ({}, {"guidance": 2.0}),
        ({"objective": "ardm", "model": {"causal": False}}, {"method": "smc"}),
        ({"objective": "restore", "model": {"aligned_values": 9}, "degrade": ("blur",)}, {"order": "random"}),
    ],
)
def test_a_run_that_could_not_draw_is_refused_before_it_trains(change, sampler, tmp_path):
    cfg = dataclasses.replace(
        CFG,
        objective=change.get("objective", "ar"),
        model=dataclasses.replace(CFG.model, **change.get("model", {})),
        data=dataclasses.replace(CFG.data, degrade=change.get("degrade", ())),
        sampler=SamplerConfig(**sampler),
    )
    assert isinstance(cfg.data, DataConfig)
    with pytest.raises(InputError, match="sampler"):
        train(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()
