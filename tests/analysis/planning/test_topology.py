"""Topologies: which there are, and what the compilers of TPUs and GPUs make of them."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from igpt_jax.analysis.chips import parse_topology
from igpt_jax.analysis.planning.topology import check_topology, describe
from igpt_jax.errors import InputError


@pytest.mark.parametrize(("topology", "extra"), [("v5e:2x2", "tpu"), ("h200:8", "cuda12")])
def test_a_compiler_that_is_not_installed_is_named(topology, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"\[{extra}\]"):
        describe(topology)


SHAPES_OF_3D = "1x1x1, 2x2x1, 2x2x2, 2x2x4, 2x4x4, or multiples of 4, as in v5p:4x4x8"


@pytest.mark.parametrize(
    ("topology", "slices", "why"),
    [
        *((topology, 1, "the shape is counts of chips, as in v5e:4x4") for topology in ("v5e", "v5e:2x", "v5e:axb")),
        ("v5p:4x4x-4", 1, "the shape is counts of chips, as in v5p:4x4x4"),
        ("v5e:4x4x4", 1, "slices of v5e and v6e are 2-D, as in v5e:4x4"),
        ("v5p:8x8", 1, "slices of v5p and tpu7x are 3-D, as in v5p:4x4x4"),
        ("v5e:3x3", 1, "slices of v5e are 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"),
        ("v5p:2x2x3", 1, f"slices of v5p are {SHAPES_OF_3D}"),
        ("v5p:4x4x0", 1, f"slices of v5p are {SHAPES_OF_3D}"),
        ("h200:9", 1, "a node has 1 to 8 GPUs, as in h200:8"),
        ("h200:8", 2, "slices: must be 1 for GPUs (one node can be planned), not 2"),
    ],
)
def test_shapes_that_no_slice_has_are_refused(topology, slices, why):
    with pytest.raises(InputError) as error:
        check_topology(topology, slices)
    assert str(error.value) == (why if slices > 1 else f"topology {topology}: {why}")


@pytest.mark.parametrize("topology", ["v5e:1x1", "v6e:16x16", "v5p:2x2x1", "v5p:16x16x24", "tpu7x:12x4x4", "h200:8"])
def test_shapes_of_slices_are_read(topology):
    chip, sides = parse_topology(topology)
    assert f"{chip.name}:{'x'.join(map(str, sides))}" == topology


needs_cuda_plugin = pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)),
    reason="needs JAX's compiler for NVIDIA GPUs (the extra cuda12)",
)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu (the extra tpu, 700 MB)"
)


TARGET = """
import json, sys
from igpt_jax.analysis.planning.topology import describe
target = describe(sys.argv[1], int(sys.argv[2]))
"""


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
from igpt_jax.config import MeshConfig
from igpt_jax.parallel.mesh import make_mesh
n = len(target.devices)
ways = [2**i for i in range(n.bit_length()) if n % 2**i == 0]
sizes = [(n // f // t, f, t) for f in ways for t in ways if n % (f * t) == 0 and n // f // t % target.slices == 0]
print(json.dumps([len({d.id for d in make_mesh(MeshConfig(*s), list(target.devices)).devices.flat}) for s in sizes]))
"""
    chips = slices * int(np.prod([int(side) for side in topology.split(":")[1].split("x")]))
    sizes = elsewhere(TARGET + code, topology, str(slices))
    assert len(sizes) > 10
    assert set(sizes) == {chips}


@needs_libtpu
@pytest.mark.parametrize(("topology", "devices"), [("v5e:1x1", 1), ("tpu7x:1x1x1", 2)])
def test_one_chip_is_a_topology(topology, devices):
    assert elsewhere(TARGET + "print(json.dumps(len(target.devices)))", topology, "1") == devices


COMMAND = "import sys; from igpt_jax.cli import main; sys.exit(main(['plan', *sys.argv[1:]]))"


@needs_libtpu
def test_a_tpu_step_compiles_with_its_kernel():
    args = (
        "--model.preset s --topology v5e:2x2 --model.grid 16 8 --model.n-layer 2 --model.d-model 256 --model.n-head 2 "
        "--model.vocab-size 16 --compute.remat dots --mesh.fsdp 2 --data.batch-size 4 --json"
    )
    plan = elsewhere(COMMAND, *args.split())
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
    """Between GPUs go weights and gradients, no activations."""
    args = (
        "--model.preset s --topology h200:8 --model.grid 16 8 --model.n-layer 2 --model.d-model 256 --model.n-head 4 "
        "--model.vocab-size 16 --mesh.fsdp 8 --data.batch-size 64 --json"
    )
    plan = elsewhere(COMMAND, *args.split())
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
