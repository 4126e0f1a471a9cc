"""What a step costs: by hand where that is possible, and for the real step compiled for eight CPU devices."""

import dataclasses
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from igpt_jax.analysis.chips import CHIPS, GB, Chip
from igpt_jax.analysis.planning import make as suggesting
from igpt_jax.analysis.planning.hlo import Collective
from igpt_jax.analysis.planning.make import candidates, fsdp_for_state, suggest
from igpt_jax.analysis.planning.network import summarize, warnings
from igpt_jax.analysis.planning.plan import (
    bytes_read_per_slot,
    memory_of_refusal,
    plan_decoding,
    plan_training,
    resolve_auto,
)
from igpt_jax.analysis.planning.topology import Target
from igpt_jax.cli import main
from igpt_jax.cli.plan import as_dict, print_plan
from igpt_jax.config import ComputeConfig, Config, DataConfig, MeshConfig, ModelConfig, SamplerConfig, TrainConfig
from igpt_jax.errors import InputError
from igpt_jax.model import count_params
from igpt_jax.plugins import load_config

CPU = Chip("cpu", 1e12, 16 * GB, 50e9, 10e9, 1, 1e9)  # round numbers of no real machine


@pytest.fixture(scope="module")
def here():
    """The eight fake devices as a target."""
    return Target("cpu", tuple(jax.devices()), CPU)


def config(mesh=(-1, 1, 1), batch_size=16, microbatches=1, model=None, **compute):
    return Config(
        model=ModelConfig.preset("tiny", **(model or {})),
        data=DataConfig(batch_size=batch_size),
        compute=ComputeConfig(**compute),
        train=TrainConfig(microbatches=microbatches),
        mesh=MeshConfig(*mesh),
    )


def test_decoding_reads_by_hand():
    tiny = ModelConfig.preset("tiny")  # T 64 is one segment: every slot reads all 64 rows
    assert bytes_read_per_slot(tiny, ComputeConfig("bfloat16"), 3) == (2 * 24576, 3 * 2 * 2 * 32 * 64 * 2)
    s = ModelConfig.preset("s")  # eight segments: (1 + ... + 8) / 8 / 8 of 1024 rows on average
    weights, cache = bytes_read_per_slot(s, ComputeConfig("bfloat16"), 128, tensor=2)
    assert weights == 12 * 24 * 512**2 * 2 // 2
    assert cache == 128 * 2 * 24 * 512 * 2 * 576 // 2


def test_two_devices_of_a_chip_share_it():
    half = CHIPS["tpu7x"].devices(2)
    assert (half.flops, half.hbm_bytes) == (2307e12 / 2, 96 * 2**30)


@pytest.fixture(scope="module")
def data_parallel(here):
    return plan_training(config(), here)


def test_data_parallel_sums_the_gradient_and_the_loss(data_parallel):
    """Every float32 gradient and the scalar loss, once; nothing else is sent."""
    (row,) = data_parallel.collectives
    assert (row.kind, row.axes, row.dcn) == ("all-reduce", ("data",), False)
    assert row.payload == 4 * (count_params(data_parallel.model) + 1)
    assert row.waited_for == row.payload
    assert row.seconds == row.waited_seconds == pytest.approx(2 * row.payload * 7 / 8 / CPU.ici_rate)


@pytest.mark.parametrize("attention", ["reference", "chunked"])
def test_fsdp_gathers_weights_and_sends_no_activations(here, attention):
    """Embedding tables are split over width; if the stream were, too, every product would be summed over devices."""
    plan = plan_training(config(mesh=(1, 8, 1), batch_size=64, attention=attention), here)
    gathered, summed = (
        sum(row.payload for row in plan.collectives if row.kind in kinds)
        for kinds in (("all-gather",), ("all-reduce", "reduce-scatter"))
    )
    parameters = 4 * count_params(plan.model)
    assert gathered < 2.5 * parameters  # forward and backward, and the tables once more
    assert summed < 1.5 * parameters


def test_decoding_gathers_the_weights_once_and_not_for_every_slot(here):
    plan = plan_decoding(config(mesh=(1, 8, 1)), here)
    assert 0 < sum(row.payload for row in plan.collectives) < 1.2 * 4 * count_params(plan.model)


def test_the_state_is_accounted_for(data_parallel):
    memory, n = data_parallel.memory, count_params(data_parallel.model)
    assert memory.params == 4 * n
    assert memory.moments == 2 * 4 * n + 3 * 4  # and three step counts: the run's, Adam's and the schedule's
    assert memory.ema == 0
    assert memory.batch == 16 // 8 * (8 * 8 * 3 + 4)
    assert memory.fits
    assert memory.total > memory.params + memory.moments + memory.temporaries > 0


def test_mfu_is_bounded_by_the_longest_time(data_parallel):
    plan = data_parallel
    assert plan.seconds["compute"] == pytest.approx(plan.flops.executed / 8 / CPU.flops)
    assert plan.seconds["ici"] == sum(row.seconds for row in plan.collectives)
    longest = max(plan.seconds.values())
    assert plan.mfu_bound == pytest.approx(plan.flops.headline / 8 / CPU.flops / longest)
    assert plan.mfu_waiting == pytest.approx(plan.mfu_bound * longest / (longest + plan.seconds["ici"]))
    hidden = [dataclasses.replace(row, waited_seconds=0.0) for row in plan.collectives]
    assert dataclasses.replace(plan, collectives=tuple(hidden)).mfu_waiting == plan.mfu_bound


def test_a_run_that_restores_is_planned_with_the_picture_beside_its_images(here):
    plan = plan_training(replace(load_config("denoise", tiny=True), mesh=MeshConfig(-1, 1, 1)), here)
    images, (rows, cols), channels = plan.batch_size // 8, plan.model.grid, 1
    assert plan.memory.batch == images * (2 * rows * cols * channels + 4)


def test_plans_print_and_serialise(data_parallel, capsys):
    print_plan(data_parallel)
    printed = capsys.readouterr().out
    assert "data 8 x fsdp 1 x tensor 1" in printed
    assert "fits" in printed
    fields = json.loads(json.dumps(as_dict(data_parallel)))
    assert fields["memory"]["total"] == data_parallel.memory.total
    assert fields["fits"] is True
    assert fields["collectives"][0]["axes"] == ["data"]


@pytest.fixture(scope="module")
def decoding(here):
    return plan_decoding(config(), here)


def test_decoding_on_eight_devices(here, decoding, capsys):
    plan = decoding
    assert plan.memory.params == 4 * count_params(plan.model)
    assert plan.step_bytes == 4 * 24576 + 2 * 2 * 2 * 32 * 64 * 4
    assert plan.images_per_s == pytest.approx(16 / (64 * plan.step_bytes / CPU.hbm_rate))
    assert plan.collectives == ()
    print_plan(plan)
    assert "images/s" in capsys.readouterr().out
    with pytest.raises(InputError, match="BERT"):
        plan_decoding(config(model={"causal": False}), here)
    for make_plan in (plan_decoding, plan_training):
        with pytest.raises(InputError, match="12 images at once"):
            make_plan(config(batch_size=12), here)


def test_decoding_in_another_order_and_by_class(here, decoding):
    """The arguments that such a model's decoder has: an int32 a token, and one an image."""
    cfg = config(model={"any_order": True, "cond_classes": 3})
    plan = plan_decoding(dataclasses.replace(cfg, sampler=SamplerConfig(order="random")), here)
    assert plan.memory.batch - decoding.memory.batch == 16 // 8 * (64 * 4 + 4)


def test_auto_is_resolved_for_the_target(here):
    tpu = Target("v5e:2x2", tuple(fakes()), CHIPS["v5e"])
    assert resolve_auto(config(), here).compute == ComputeConfig(dtype="float32", attention="reference")
    large = config(model={"grid": (16, 8)})
    assert resolve_auto(large, tpu).compute == ComputeConfig(dtype="bfloat16", attention="splash")
    prefix = config(model={"grid": (16, 8), "prefix_slots": 128, "prefix_values": 3})
    assert resolve_auto(prefix, tpu).compute.attention == "reference"  # splash knows no such mask
    assert resolve_auto(config(), tpu).compute.attention == "reference"  # 64 positions
    with pytest.raises(InputError, match="needs an NVIDIA GPU"):
        resolve_auto(config(attention="cudnn"), tpu)


def fakes(slices=1):
    """Devices of a 2 x 2 torus, x fastest, slice after slice."""
    places = [((i % 2, i // 2), slice_index) for slice_index in range(slices) for i in range(4)]
    return [SimpleNamespace(coords=coords, slice_index=i, platform="tpu") for coords, i in places]


class FakeMesh:
    """A mesh of fakes; JAX's own takes none."""

    def __init__(self, devices, *shape):
        self.devices = np.array(devices, object).reshape(shape)
        self.shape = dict(zip(("data", "fsdp", "tensor"), shape))


def collective(kind, groups, payload=1000, times=1, **fields):
    fields = dict(dims=(10,), overlapped=False, where="") | fields
    return Collective(kind, payload, times, np.array(groups), **fields)


def test_time_on_the_links_that_a_group_can_use():
    """On a 2-D torus half of the links lead along each dimension."""
    chip = CHIPS["v5e"]
    mesh = FakeMesh(fakes(), 2, 2, 1)
    (row,) = summarize([collective("all-gather", [[0, 1], [2, 3]], times=3)], mesh, chip)
    assert (row.axes, row.count, row.payload) == (("fsdp",), 3, 3000)
    assert row.seconds == pytest.approx(3 * 500 / (chip.ici_rate / 2))
    (row,) = summarize([collective("all-reduce", [[0, 1, 2, 3]])], mesh, chip)
    assert row.axes == ("data", "fsdp")
    assert row.seconds == pytest.approx(2 * 750 / chip.ici_rate)
    (row,) = summarize([collective("collective-permute", [[0, 2], [2, 0]])], mesh, chip)
    assert (row.axes, row.seconds) == (("data",), pytest.approx(1000 / (chip.ici_rate / 2)))


def test_time_between_slices():
    """Groups count the devices of one slice; what goes between slices crosses the axis that they lie along."""
    chip = CHIPS["v5e"]
    mesh = FakeMesh(fakes(2), 2, 4, 1)
    inside, across = collective("all-reduce", [[0, 1, 2, 3]]), collective("all-reduce", [[0]], dcn=True)
    rows = {row.dcn: row for row in summarize([inside, across, collective("all-reduce", [[0]])], mesh, chip)}
    assert len(rows) == 2  # a group of one sends nothing
    assert (rows[False].axes, rows[True].axes) == (("fsdp",), ("data",))
    assert rows[True].seconds == pytest.approx(2 * 500 / chip.dcn_rate)


def test_what_slows_a_program_down_is_noted():
    model, mesh = ModelConfig.preset("tiny"), FakeMesh(fakes(), 1, 4, 1)
    whole = collective("all-gather", [[0, 1, 2, 3]], dims=(2, 32, 128), where="mlp")
    one_layer = collective("all-gather", [[0, 1, 2, 3]], dims=(1, 32, 128), times=2)
    hidden = dataclasses.replace(one_layer, overlapped=True)
    notes = list(warnings([whole, one_layer], ["while.1"], model, mesh))
    assert "[2, 32, 128] of all layers over fsdp at once, while the device waits: mlp" in notes[0]
    assert "waits for 100% of the all-gathers" in notes[1]
    assert "1 loops" in notes[2]
    other = dataclasses.replace(hidden, dims=(7, 32, 128))
    assert list(warnings([hidden, other, one_layer], [], model, mesh)) == []


def test_a_refusal_says_how_much_it_would_have_been(data_parallel):
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded by 4.75G."
    base = dataclasses.replace(data_parallel.memory, temporaries=0, outputs=0, padding=0, code=0)
    memory = memory_of_refusal(base, message)
    assert memory.total == int(20.5 * 2**30)
    assert memory.capacity == min(int(15.75 * 2**30), base.capacity)
    assert not memory.fits
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (89.58G) exceeds "
        "available HBM (15.75G)."
    )
    assert memory_of_refusal(base, message).temporaries == int(89.58 * 2**30)
    assert not memory_of_refusal(base, "RESOURCE_EXHAUSTED: in other words").fits
    assert memory_of_refusal(base, "INTERNAL: something else") is None


def test_suggestions_start_with_the_cheapest(here, data_parallel, monkeypatch):
    tried = []

    def pretend(cfg, target):
        tried.append((cfg.mesh.fsdp, cfg.compute.remat, cfg.train.microbatches))
        capacity = 10**9 if cfg.train.microbatches == 2 else 1
        return dataclasses.replace(data_parallel, memory=dataclasses.replace(data_parallel.memory, capacity=capacity))

    monkeypatch.setattr(suggesting, "plan_training", pretend)
    options, plan = suggest(config(), here)
    assert options == ["--compute.remat", "full", "--train.microbatches", "2"]
    assert plan.fits
    assert tried == [(1, "dots", 1), (1, "full", 1), (1, "full", 2)]
    assert suggest(config(remat="full", batch_size=24), here) is not None
    assert suggest(config(batch_size=8, microbatches=8), here) is None


def test_a_large_state_is_split_first(here, data_parallel):
    state = 3 * 4 * count_params(data_parallel.model)
    small = dataclasses.replace(here, chip=dataclasses.replace(CPU, hbm_bytes=state))
    assert fsdp_for_state(config(), here) == 1
    assert fsdp_for_state(config(), small) == 4  # what is not split makes a half a little more than that
    options, changed = next(candidates(config(), 4))
    assert options == ["--mesh.data", "-1", "--mesh.fsdp", "4"]
    assert changed.mesh == MeshConfig(-1, 4, 1)
    hopeless = dataclasses.replace(here, chip=dataclasses.replace(CPU, hbm_bytes=1))
    assert fsdp_for_state(config(), hopeless) == 8


def test_candidates_change_nothing_else():
    cfg = config((-1, 4, 1), batch_size=12, microbatches=2, remat="dots")
    options, changed = zip(*candidates(cfg, 4))
    assert options == (["--compute.remat", "full"], ["--compute.remat", "full", "--train.microbatches", "4"])
    assert all(one.mesh == cfg.mesh for one in changed)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "an experiment, such as digits"),
        (["--model.preset", "s"], "--topology is missing"),
        (["--model.preset", "s", "--topology", "v5x:2x2"], "no chip 'v5x'.*did you mean 'v5[pe]'"),
        (["--model.preset", "s", "--topology", "v5e:2x2", "--slices", "0"], "slices: must be at least 1, not 0"),
    ],
)
def test_command_line_refusals(capsys, args, why):
    assert main(["plan", *args]) == 2
    assert re.search(why, capsys.readouterr().err)
