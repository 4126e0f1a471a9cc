"""Plans of a run on accelerators that are not here: the very train step, compiled for them and read.

Memory is what the compiler says, collectives are read from the program it made, FLOPs come from formulas. Times are
floors at the chip's published rates. How it is printed is left to the command.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import Config, InputError, ModelConfig
from igpt_jax.model.attention import pick_backend
from igpt_jax.model.attention_kernels import Case, splash_products
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import batch_sharding, check_splits, make_mesh
from igpt_jax.planning.hlo import traffic
from igpt_jax.planning.network import Row, findings, summary
from igpt_jax.planning.topology import Target
from igpt_jax.training.program import make_program

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Memory:
    """Bytes at one device. The parts of the state are those of its arrays; the rest is the compiler's account."""

    params: int
    moments: int
    """Of the optimizer, its step count included."""
    ema: int
    batch: int
    padding: int
    """What the device's tiles add to the arguments."""
    outputs: int
    """Results that do not take the place of an argument."""
    temporaries: int
    """Activations kept for the backward pass, gradients, gathered weights and all else that lives within a step."""
    code: int
    capacity: int

    @property
    def total(self) -> int:
        """All of the above."""
        state = self.params + self.moments + self.ema + self.batch + self.padding
        return state + self.outputs + self.temporaries + self.code

    @property
    def fits(self) -> bool:
        """Whether that is within what the compiler has to give, or the chip has, whichever it knows."""
        return self.total <= self.capacity


@dataclass(frozen=True)
class Flops:
    """FLOPs of a training step over all devices: 6 N a token for the blocks' N = 12 L D^2 weights, and attention."""

    headline: int
    """Attention by what a query sees: 6 L D T a token where causal, else 12 L D T. MFU counts this."""
    noncausal: int
    """Attention as if every query saw every key, 12 L D T a token, as some report it."""
    executed: int
    """Headline, what the backward pass computes again (model.remat), and the products that a fused attention kernel
    computes again in it."""


@dataclass(frozen=True)
class Plan:
    """What a train step costs on a target."""

    topology: str
    slices: int
    devices: int
    mesh: dict[str, int]
    model: ModelConfig
    batch_size: int
    microbatches: int
    memory: Memory
    flops: Flops
    collectives: tuple[Row, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    """Floors of a step's time: compute, hbm, ici, dcn."""
    compile_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the step can run there."""
        return self.memory.fits

    @property
    def mfu_bound(self) -> float | None:
        """Headline FLOPs over peak, were all the floors perfectly hidden behind the longest; None if unknown."""
        return self._mfu(max(self.seconds.values())) if self.seconds else None

    @property
    def mfu_waiting(self) -> float | None:
        """The same with the collectives that the compiled program waits for added to its computing."""
        if not self.seconds:
            return None
        waited = sum(row.waited_seconds for row in self.collectives)
        busy = max(self.seconds["compute"], self.seconds["hbm"])
        return self._mfu(max(busy + waited, *self.seconds.values()))

    def _mfu(self, seconds: float) -> float:
        ideal = self.seconds["compute"] * self.flops.headline / self.flops.executed
        return ideal / seconds


def training_flops(model: ModelConfig, images: int) -> Flops:
    """FLOPs of a step over that many images; the head, embeddings and norms are not counted."""
    tokens = images * model.n_ctx
    weights = 12 * model.n_layer * model.d_model**2
    full = 12 * model.n_layer * model.d_model * model.n_ctx
    seen = full // 2 if model.causal else full
    # Of six products two are the forward pass; the backward pass of fused attention makes the logits once more, and
    # splash's over many keys three products more. remat dots keeps what splash yields, and no other attention's.
    splash = model.attention == "splash"
    again = seen // 6 * (splash_products(model.n_ctx) - 4 if splash else 1)
    again += {"none": 0, "dots": 0 if splash else seen // 3, "full": 2 * weights + seen // 3}[model.remat]
    headline = tokens * (6 * weights + seen)
    return Flops(headline, tokens * (6 * weights + full), headline + tokens * again)


def settle(cfg: Config, target: Target) -> Config:
    """The configuration with what would be picked at run time picked for the target: compute type and attention.

    Raises:
      InputError: the attention asked for cannot serve there.
    """
    dtype = cfg.model.dtype
    if dtype == "auto":
        dtype = "float32" if target.platform == "cpu" else "bfloat16"
    case = Case(target.platform, dtype, cfg.model.n_ctx, cfg.model.n_ctx, cfg.model.head_dim)
    attention: Any = pick_backend(cfg.model.attention, case)
    return replace(cfg, model=replace(cfg.model, dtype=dtype, attention=attention))


def plan_training(cfg: Config, target: Target) -> Plan:
    """Compiles the train step of a run for a target, and reads what it costs.

    Raises:
      InputError: sizes that do not divide over the mesh, or the mesh over the devices.
    """
    cfg = settle(cfg, target)
    mesh = make_mesh(cfg.mesh, list(target.devices))
    check_splits(cfg.train.batch_size, cfg.train.microbatches, mesh)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # where a Pallas kernel looks for it
        program = make_program(cfg, stand_in_palette(cfg), mesh)
        batch = abstract_batch(cfg, mesh)
        lowered = program.train_step.lower(program.abstract, batch)
    state = program.abstract
    kinds = {"params": state.params, "moments": (state.opt_state, state.step), "ema": state.ema, "batch": batch}
    parts = {kind: bytes_at_one_device(tree) for kind, tree in kinds.items()}
    base = Plan(
        topology=target.name,
        slices=target.slices,
        devices=len(target.devices),
        mesh=dict(mesh.shape),
        model=cfg.model,
        batch_size=cfg.train.batch_size,
        microbatches=cfg.train.microbatches,
        memory=Memory(**parts, padding=0, outputs=0, temporaries=0, code=0, capacity=target.chip.hbm_bytes),
        flops=training_flops(cfg.model, cfg.train.batch_size),
    )
    compiled, memory, seconds = compile_for(lowered, base.memory)
    if compiled is None:
        return replace(base, memory=memory, compile_seconds=seconds)
    found, unknown = traffic(compiled.as_text() or "", len(target.devices) // target.slices)
    rows = tuple(summary(found, mesh, target.chip))
    weights = 2 * 12 * cfg.model.n_layer * cfg.model.d_model**2 // mesh.shape["tensor"]
    passes = 3 + (cfg.model.remat == "full")
    hbm = memory.total - memory.code + memory.temporaries + cfg.train.microbatches * passes * weights
    return replace(
        base,
        memory=memory,
        collectives=rows,
        seconds={
            "compute": base.flops.executed / len(target.devices) / target.chip.flops,
            "hbm": hbm / target.chip.hbm_rate,
            "ici": sum(row.seconds for row in rows if not row.dcn),
            "dcn": sum(row.seconds for row in rows if row.dcn),
        },
        compile_seconds=seconds,
        notes=tuple(findings(found, unknown, cfg.model, mesh)),
    )


def stand_in_palette(cfg: Config) -> Palette:
    """Some colours of the right number; which they are changes nothing that a plan looks at."""
    return Palette(np.repeat(np.linspace(-1, 1, cfg.model.vocab_size)[:, None], cfg.data.channels, axis=1))


def abstract_batch(cfg: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and places of a training batch."""
    n, where = cfg.train.batch_size, batch_sharding(mesh)
    shapes = {"image": ((n, *cfg.model.grid, cfg.data.channels), jnp.uint8), "label": ((n,), jnp.int32)}
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=where) for name, (shape, dtype) in shapes.items()}


def bytes_at_one_device(tree: Any) -> int:
    """Of a tree of abstract arrays with shardings."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def compile_for(lowered: Any, memory: Memory) -> tuple[Any | None, Memory, float]:
    """(the compiled program, or None where the compiler refuses it for its size; the account filled in; seconds)."""
    started = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = refused(memory, str(error))
        if needed is None:
            raise
        return None, needed, time.monotonic() - started
    return compiled, account(memory, compiled.memory_analysis()), time.monotonic() - started


def account(memory: Memory, compiled: Any) -> Memory:
    """The account filled in from a compiled program's memory_analysis()."""
    arguments = memory.params + memory.moments + memory.ema + memory.batch
    return replace(
        memory,
        padding=compiled.argument_size_in_bytes - arguments,
        outputs=compiled.output_size_in_bytes - compiled.alias_size_in_bytes,
        temporaries=compiled.temp_size_in_bytes,
        code=compiled.generated_code_size_in_bytes,
    )


def refused(memory: Memory, message: str) -> Memory | None:
    """The account as far as the compiler gives it when it refuses a program for its size; None for other messages."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    whole = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm", message)
    part = re.search(r"temporaries \(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", message)
    if whole:
        needed, capacity = (_bytes(text) for text in whole.groups())
        return replace(memory, temporaries=needed - memory.total, capacity=min(capacity, memory.capacity))
    if part:
        needed, capacity = (_bytes(text) for text in part.groups())
        return replace(memory, temporaries=needed, capacity=min(capacity, memory.capacity))
    return replace(memory, temporaries=memory.capacity)  # it did not say; more than there is


def _bytes(text: str) -> int:
    return int(float(text[:-1]) * 1024 ** (1 + "KMGT".index(text[-1])))


def suggest(cfg: Config, target: Target) -> tuple[list[str], Plan] | None:
    """The first of a short list of changes with which the run fits, as command-line options, and its plan.

    The state is split until it takes half of a device at most; then more is recomputed in the backward pass, then the
    batch is worked through in parts.
    """
    for options, changed in candidates(cfg, ways_for_state(cfg, target)):
        try:
            log.info("trying %s", " ".join(options))
            plan = plan_training(changed, target)
        except InputError:
            continue
        if plan.fits:
            return options, plan
    return None


def ways_for_state(cfg: Config, target: Target) -> int:
    """How far mesh.fsdp must split the state for it to take half of a device at most; as far as it can be, if none."""
    found = cfg.mesh.fsdp
    for i in range(len(target.devices).bit_length()):
        split = split_state(cfg, max(cfg.mesh.fsdp, 2**i))
        try:
            mesh = make_mesh(split.mesh, list(target.devices))
            check_splits(split.train.batch_size, split.train.microbatches, mesh)
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                state = make_program(settle(split, target), stand_in_palette(cfg), mesh).abstract
        except InputError:
            continue
        found = split.mesh.fsdp
        if bytes_at_one_device(state) <= target.chip.hbm_bytes / 2:
            break
    return found


def split_state(cfg: Config, fsdp: int) -> Config:
    """The run with its state split so many ways, and its batch over the other devices."""
    return cfg if fsdp == cfg.mesh.fsdp else replace(cfg, mesh=replace(cfg.mesh, data=-1, fsdp=fsdp))


def candidates(cfg: Config, fsdp: int) -> Iterator[tuple[list[str], Config]]:
    """Changes to a run that make it smaller, each as options and as the changed configuration."""
    remats = {"none": ("none", "dots", "full"), "dots": ("dots", "full"), "full": ("full",)}[cfg.model.remat]
    parts = [cfg.train.microbatches * more for more in (2, 4, 8, 16)]
    changes = [(remat, cfg.train.microbatches) for remat in remats]
    changes += [("full", n) for n in parts if cfg.train.batch_size % n == 0]
    for remat, microbatches in changes:
        options: list[str] = []
        if fsdp != cfg.mesh.fsdp:
            options += ["--mesh.data", "-1", "--mesh.fsdp", str(fsdp)]
        if remat != cfg.model.remat:
            options += ["--model.remat", remat]
        if microbatches != cfg.train.microbatches:
            options += ["--train.microbatches", str(microbatches)]
        if options:
            model, train = replace(cfg.model, remat=remat), replace(cfg.train, microbatches=microbatches)
            yield options, replace(split_state(cfg, fsdp), model=model, train=train)
