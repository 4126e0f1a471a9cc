"""Plans of training and decoding on accelerators elsewhere: the run's own program is compiled for them and read.

The compiler says how much memory it takes, the collectives are read from the compiled program, FLOPs come from
formulas. Times are lower bounds at the chip's published rates. The command prints them.
"""

from __future__ import annotations

import re
import time
from dataclasses import astuple, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax.analysis.planning.hlo import Collective, traffic
from igpt_jax.analysis.planning.network import TrafficRow, summarize, warnings
from igpt_jax.analysis.planning.topology import Target
from igpt_jax.config import ComputeConfig, Config, ModelConfig
from igpt_jax.model import AXES, ImageGPT, abstract_params, cache_row_bytes, compute_dtype
from igpt_jax.model.attention import Case, pick_backend
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import (
    batch_sharding,
    batch_ways,
    bytes_at_one_device,
    check_splits,
    make_mesh,
    replicated,
    traced_on,
    with_shardings,
)
from igpt_jax.sampling.decode import decode, segment_ends
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import rules_of
from igpt_jax.training.flops import Flops, block_weights, slots, training_flops
from igpt_jax.training.step import Program, make_model, make_program


@dataclass(frozen=True)
class Memory:
    """Bytes at one device. Parameters, moments, EMA and batch follow from their shapes; the rest the compiler says."""

    params: int
    batch: int
    capacity: int
    """What the compiler has to give, or what the chip has if the compiler does not say."""
    moments: int = 0
    """Of the optimizer, its step counts included."""
    ema: int = 0
    padding: int = 0
    """What the device's tiles add to the arguments, less the arguments that the program does not read."""
    outputs: int = 0
    """Results that do not take the place of an argument."""
    temporaries: int = 0
    """All that lives within one execution: saved activations, gradients, gathered weights."""
    code: int = 0

    @property
    def total(self) -> int:
        """Everything but the capacity."""
        return sum(astuple(self)) - self.capacity

    @property
    def fits(self) -> bool:
        """Whether the program can run there."""
        return self.total <= self.capacity


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What training and decoding have in common on a target."""

    topology: str
    devices: int
    mesh: dict[str, int]
    model: ModelConfig
    compute: ComputeConfig
    """With dtype and attention as they are on the target."""
    memory: Memory
    collectives: tuple[TrafficRow, ...]
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """Whether it can run there."""
        return self.memory.fits


@dataclass(frozen=True, kw_only=True)
class TrainingPlan(Plan):
    """What a train step costs."""

    slices: int
    batch_size: int
    microbatches: int
    flops: Flops
    seconds: dict[str, float]
    """Lower bounds of a step's time by what limits it: compute, hbm, ici, dcn. Empty if the compiler refused it."""
    notes: tuple[str, ...]

    @property
    def mfu_bound(self) -> float | None:
        """Headline FLOPs over peak if the longest of `seconds` hides the others; None if unknown."""
        return self._mfu(0.0)

    @property
    def mfu_waiting(self) -> float | None:
        """The same, with the collectives that the compiled program waits for added to the computing time."""
        return self._mfu(sum(row.waited_seconds for row in self.collectives))

    def _mfu(self, waited: float) -> float | None:
        if not self.seconds:
            return None
        ideal = self.seconds["compute"] * self.flops.headline / self.flops.executed
        busy = max(self.seconds["compute"], self.seconds["hbm"])
        return ideal / max(busy + waited, *self.seconds.values())


def plan_training(cfg: Config, target: Target) -> TrainingPlan:
    """Compiles the train step of a run for a target, and reads what it costs."""
    cfg = resolve_auto(cfg, target)
    mesh, program = program_for(cfg, target)
    state, n = program.abstract, cfg.data.batch_size
    picture = ((n, *cfg.model.grid, cfg.data.channels), jnp.uint8)
    shapes = {"image": picture, "label": ((n,), jnp.int32)} | ({"degraded": picture} if cfg.data.degrade else {})
    batch = abstract_arrays(shapes, mesh)
    arguments = Memory(
        params=bytes_at_one_device(state.params),
        moments=bytes_at_one_device((state.opt_state, state.step)),
        ema=bytes_at_one_device(state.ema),
        batch=bytes_at_one_device(batch),
        capacity=target.chip.hbm_bytes,
    )
    common, hlo = compile_for(cfg, mesh, target, program.train_step.lower(state, batch), arguments)
    flops = training_flops(cfg.model, cfg.compute, n)
    seconds, notes = {}, ()
    if hlo is not None:
        weights = block_weights(cfg.model) * jnp.dtype(cfg.compute.dtype).itemsize // mesh.shape["tensor"]
        reads = cfg.train.microbatches * (3 + (cfg.compute.remat == "full"))
        memory, rows = common["memory"], common["collectives"]
        # The arguments once, temporaries written and read, and the weights for every pass.
        hbm = memory.total - memory.code + memory.temporaries + reads * weights
        seconds = {
            "compute": flops.executed / len(target.devices) / target.chip.flops,
            "hbm": hbm / target.chip.hbm_rate,
            "ici": sum(row.seconds for row in rows if not row.dcn),
            "dcn": sum(row.seconds for row in rows if row.dcn),
        }
        notes = tuple(warnings(*hlo, cfg.model, mesh))
    sizes: dict[str, Any] = {"slices": target.slices, "batch_size": n, "microbatches": cfg.train.microbatches}
    return TrainingPlan(**common, **sizes, flops=flops, seconds=seconds, notes=notes)


def compile_for(
    cfg: Config, mesh: Mesh, target: Target, lowered: jax.stages.Lowered, arguments: Memory
) -> tuple[dict[str, Any], tuple[list[Collective], list[str]] | None]:
    """The fields of a `Plan`, and what `traffic` reads from the program; None if it is refused for its size."""
    started, read = time.monotonic(), None
    try:
        compiled = lowered.compile()
        analysis: Any = compiled.memory_analysis()
        memory = replace(
            arguments,
            padding=analysis.argument_size_in_bytes - arguments.total,
            outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
            temporaries=analysis.temp_size_in_bytes,
            code=analysis.generated_code_size_in_bytes,
        )
        read = traffic(compiled.as_text() or "", len(target.devices) // target.slices)
    except jax.errors.JaxRuntimeError as error:
        memory = memory_of_refusal(arguments, str(error))
        if memory is None:
            raise
    fields = {
        "topology": target.name,
        "devices": len(target.devices),
        "mesh": dict(mesh.shape),
        "model": cfg.model,
        "compute": cfg.compute,
        "memory": memory,
        "collectives": summarize(read[0], mesh, target.chip) if read else (),
        "compile_seconds": time.monotonic() - started,
    }
    return fields, read


_SIZE = r"([\d.]+)([KMGT])"
_REFUSALS = {
    "total": f"Used {_SIZE} of {_SIZE} hbm",
    "temporaries": rf"temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)",
}


def memory_of_refusal(memory: Memory, message: str) -> Memory | None:
    """The memory that a compiler's error gives when a program is too large; None for any other error."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    for what, pattern in _REFUSALS.items():
        if match := re.search(pattern, message):
            sizes = zip(match.group(1, 3), match.group(2, 4), strict=True)
            needed, capacity = (int(float(n) * 1024 ** (1 + "KMGT".index(unit))) for n, unit in sizes)
            return replace(memory, temporaries=needed - getattr(memory, what), capacity=min(capacity, memory.capacity))
    return replace(memory, temporaries=memory.capacity)  # the message has no number: more than there is


def resolve_auto(cfg: Config, target: Target) -> Config:
    """The configuration with the dtype and attention that `auto` stands for on the target."""
    dtype = cfg.compute.dtype
    if dtype == "auto":
        dtype = "float32" if target.platform == "cpu" else "bfloat16"
    t, mask = slots(cfg.model), ImageGPT(cfg.model).mask
    attention = pick_backend(cfg.compute.attention, Case(target.platform, dtype, t, t, cfg.model.head_dim, mask))
    return replace(cfg, compute=replace(cfg.compute, dtype=dtype, attention=attention))


def program_for(cfg: Config, target: Target) -> tuple[Mesh, Program]:
    """The mesh over a target's devices and the programs of the run there."""
    mesh = make_mesh(cfg.mesh, list(target.devices))
    check_splits(cfg.data.batch_size, cfg.train.microbatches, mesh)
    # Greys of the right number and shape: a plan does not depend on the colours.
    greys = np.repeat(np.linspace(-1, 1, cfg.model.vocab_size)[:, None], cfg.data.channels, axis=1)
    return mesh, make_program(cfg, Palette(greys), mesh)


def abstract_arrays(shapes: dict[str, tuple[tuple[int, ...], Any]], mesh: Mesh) -> dict[str, Any]:
    """Abstract arrays of these shapes and types, split over the mesh like a batch."""
    sharding = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, (shape, dtype) in shapes.items()}


@dataclass(frozen=True, kw_only=True)
class DecodingPlan(Plan):
    """What drawing a batch of images costs."""

    images: int
    weight_bytes: int
    """Block weights that one slot reads at one device, in the compute type."""
    cache_bytes: int
    """Keys and values that one slot reads at one device, on average over the segments of the cache."""
    images_per_s: float
    """At most, over all devices: what memory and network allow."""

    @property
    def step_bytes(self) -> int:
        """Bytes that one slot reads at one device."""
        return self.weight_bytes + self.cache_bytes


def bytes_read_per_slot(
    model: ModelConfig, compute: ComputeConfig, images: int, tensor: int = 1, cache: str = "auto"
) -> tuple[int, int]:
    """(weights, keys and values): bytes that a device reads to decode one slot of `images` images, on average.

    The blocks' weights are read once for all images; an image's cache is read up to the end of its segment.
    """
    ends = segment_ends(model.n_ctx)
    rows = sum((end - start) * end for start, end in zip([0, *ends[:-1]], ends, strict=True)) // model.n_ctx
    weights = block_weights(model) * compute_dtype(compute).itemsize // tensor
    return weights, images * rows * cache_row_bytes(model, compute, cache) // tensor


def plan_decoding(cfg: Config, target: Target) -> DecodingPlan:
    """Compiles the decoding of data.batch_size new images for a target, and reads what it costs."""
    cfg = resolve_auto(cfg, target)
    n = cfg.data.batch_size
    mesh = make_mesh(cfg.mesh, list(target.devices))
    check_splits(n, 1, mesh)
    params = with_shardings(abstract_params(cfg.model), mesh, AXES)
    batch = abstract_images(cfg, mesh)
    ways, tensor, cache_dtype = batch_ways(mesh), mesh.shape["tensor"], cfg.sampler.cache
    weights, cache = bytes_read_per_slot(cfg.model, cfg.compute, n // ways, tensor, cache_dtype)
    arguments = Memory(bytes_at_one_device(params), bytes_at_one_device(batch), target.chip.hbm_bytes)
    lowered = traced_on(mesh, decode.lower)(make_model(cfg).clone(cache=cache_dtype), params, **batch)
    common, _ = compile_for(cfg, mesh, target, lowered, arguments)
    reading = cfg.model.n_ctx * (weights + cache) / target.chip.hbm_rate
    network = sum(row.seconds for row in common["collectives"])
    rate = n / max(reading, network)
    return DecodingPlan(**common, images=n, weight_bytes=weights, cache_bytes=cache, images_per_s=rate)


def abstract_images(cfg: Config, mesh: Mesh) -> dict[str, Any]:
    """Shapes, types and shardings of `decode`'s arguments for a batch of new images."""
    n, t = cfg.data.batch_size, cfg.model.n_ctx
    shapes: dict[str, Any] = {"tokens": ((n, t), jnp.int32), "known": ((n, t), jnp.bool_)}
    if cfg.sampler.order != "raster":
        shapes["order"] = (n, t), jnp.int32
    if cfg.model.cond_classes:
        shapes["class_id"] = (n,), jnp.int32
    rules, whole = rules_of(replace(cfg.sampler, guidance=1.0)), replicated(mesh)
    return {
        "prompt": Prompt(**abstract_arrays(shapes, mesh)),
        "rules": jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), rules),
        **abstract_arrays({"keys_B": ((n,), jax.random.key(0).dtype)}, mesh),
    }
