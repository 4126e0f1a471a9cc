"""Topologies: which there are, and what the compilers of TPUs and GPUs make of them."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from igpt_jax.analysis.chips import parse_topology
from igpt_jax.analysis.planning.topology import describe
from igpt_jax.errors import InputError


def test_impossible_topologies_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\[tpu\]"):
        describe("v5e:2x2")
    for topology in ("v5e", "v5e:", "v5e:2x", "v5e:axb", "v5p:4x4x-4"):
        with pytest.raises(InputError, match="counts of chips"):
            describe(topology)


@pytest.mark.parametrize(
    ("topology", "why"),
    [
        ("v5e:4x4x4", "slices of v5e and v6e are 2-D, as in v5e:4x4"),
        ("v5p:8x8", "slices of v5p and tpu7x are 3-D, as in v5p:4x4x4"),
        ("tpu7x:64", "slices of v5p and tpu7x are 3-D, as in tpu7x:4x4x4"),
        ("v5e:3x3", "slices of v5e are 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"),
        ("v5p:2x2x3", "slices of v5p are 1x1x1, 2x2x1, 2x2x2, 2x2x4, 2x4x4, or multiples of 4, as in v5p:4x4x8"),
        ("h200:9", "a node has 1 to 8 GPUs, as in h200:8"),
        ("v5p:4x4x0", "slices of v5p are 1x1x1, 2x2x1, 2x2x2, 2x2x4, 2x4x4, or multiples of 4, as in v5p:4x4x8"),
    ],
)
def test_shapes_that_no_slice_has_are_refused(topology, why):
    with pytest.raises(InputError) as error:
        parse_topology(topology)
    assert str(error.value) == f"topology {topology}: {why}"


@pytest.mark.parametrize("topology", ["v5e:1x1", "v6e:16x16", "v5p:2x2x1", "v5p:16x16x24", "tpu7x:12x4x4"])
def test_shapes_of_slices_are_read(topology):
    chip, sides = parse_topology(topology)
    assert f"{chip.name}:{'x'.join(map(str, sides))}" == topology


def test_gpus_need_their_compiler_and_one_node(monkeypatch):
    assert parse_topology("h200:8")[1] == (8,)
    with pytest.raises(InputError, match="must be 1 for GPUs"):
        describe("h200:8", 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\[cuda12\]"):
        describe("h200:8")


needs_cuda_plugin = pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)),
    reason="needs JAX's compiler for NVIDIA GPUs (the extra cuda12)",
)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu (the extra tpu, 700 MB)"
)


def elsewhere(code, *args):
    """Runs code in a process of its own, since compilers read the settings of a topology once."""
    env = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_libtpu
@pytest.mark.parametrize(("topology", "slices"), [("v5p:4x4x8", 1), ("v6e:8x8", 1), ("v5p:2x2x4", 3)])
def test_every_division_of_a_torus_is_a_mesh(topology, slices):
    """Also those where an axis is no product of the torus's sides."""
    code = """
import json, sys
from igpt_jax.analysis.planning.topology import describe
target = describe(sys.argv[1], int(sys.argv[2]))
from igpt_jax.config import MeshConfig
from igpt_jax.parallel.mesh import make_mesh
n = len(target.devices)
ways = [2**i for i in range(n.bit_length()) if n % 2**i == 0]
sizes = [(n // f // t, f, t) for f in ways for t in ways if n % (f * t) == 0 and n // f // t % target.slices == 0]
print(json.dumps([len({d.id for d in make_mesh(MeshConfig(*s), list(target.devices)).devices.flat}) for s in sizes]))
"""
    chips = slices * int(np.prod([int(side) for side in topology.split(":")[1].split("x")]))
    sizes = elsewhere(code, topology, str(slices))
    assert len(sizes) > 10
    assert set(sizes) == {chips}


@needs_libtpu
def test_a_tpu_step_compiles_with_its_kernel():
    """The whole command."""
    command = "import sys; from igpt_jax.cli import main; sys.exit(main(['plan', *sys.argv[1:]]))"
    args = (
        "--model.preset s --topology v5e:2x2 --model.grid 16 8 --model.n-layer 2 --model.d-model 256 --model.n-head 2 "
        "--model.vocab-size 16 --compute.remat dots --mesh.fsdp 2 --data.batch-size 4 --json"
    )
    plan = elsewhere(command, *args.split())
    assert (plan["compute"]["attention"], plan["compute"]["dtype"]) == ("splash", "bfloat16")
    assert plan["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    payload = {(row["kind"], *row["axes"]): row["payload"] for row in plan["collectives"]}
    layers = 2 * 12 * 256**2 * 2  # bytes in bfloat16
    assert payload["all-gather", "fsdp"] >= 2 * layers
    assert payload["reduce-scatter", "fsdp"] >= layers  # the gradients, no two devices of fsdp adding up the same
    assert payload["all-reduce", "data"] >= layers / 2
    assert payload.get(("all-reduce", "fsdp"), 0) < layers / 100
    assert plan["fits"]


@needs_cuda_plugin
def test_a_gpu_step_compiles_with_its_kernel():
    """The whole command. Between GPUs go weights and gradients, no activations."""
    command = "import sys; from igpt_jax.cli import main; sys.exit(main(['plan', *sys.argv[1:]]))"
    args = (
        "--model.preset s --topology h200:8 --model.grid 16 8 --model.n-layer 2 --model.d-model 256 --model.n-head 4 "
        "--model.vocab-size 16 --mesh.fsdp 8 --data.batch-size 64 --json"
    )
    plan = elsewhere(command, *args.split())
    assert (plan["compute"]["attention"], plan["compute"]["dtype"]) == ("cudnn", "bfloat16")
    layers = 2 * 12 * 256**2 * 2  # bytes in bfloat16
    sent = sum(row["payload"] for row in plan["collectives"])
    assert 3 * layers <= sent < 4 * layers
    assert plan["fits"]


@needs_libtpu
def test_a_step_on_tpu7x_sums_every_gradient():
    """In bfloat16, but for the embeddings and the norms. The compiler gives most of it to the sparse cores."""
    code = """
import dataclasses, json, sys
from igpt_jax.config import Config, DataConfig, ModelConfig
from igpt_jax.model import count_params
from igpt_jax.analysis.planning.make import make_plan_in_child
model = ModelConfig.preset("tiny", grid=(16, 8), d_model=256)
cfg = Config(model=model, data=DataConfig(batch_size=8))
plan, suggestion = make_plan_in_child(cfg, "tpu7x:2x2x1", 1, False, True)
print(json.dumps([count_params(model), [dataclasses.asdict(row) for row in plan.collectives], suggestion]))
"""
    n, (row,), suggestion = elsewhere(code)
    assert (row["kind"], row["axes"], suggestion) == ("all-reduce", ["data"], None)
    assert row["payload"] == pytest.approx(2 * n, rel=0.05)
    assert row["waited_for"] < row["payload"] / 10


@needs_libtpu
@pytest.mark.parametrize(("topology", "devices"), [("v5e:1x1", 1), ("tpu7x:1x1x1", 2)])
def test_one_chip_is_a_topology(topology, devices):
    code = """
import json, sys
from igpt_jax.analysis.planning.topology import describe
print(json.dumps(len(describe(sys.argv[1]).devices)))
"""
    assert elsewhere(code, topology) == devices
