"""Plans of decoding on accelerators elsewhere: the decoder's own program is compiled for them and read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from igpt_jax.analysis.planning.plan import Memory, Plan, abstract_arrays, compile_for, resolve_auto
from igpt_jax.analysis.planning.topology import Target
from igpt_jax.config import ComputeConfig, Config, ModelConfig
from igpt_jax.model import AXES, abstract_params, cache_row_bytes, compute_dtype
from igpt_jax.parallel.mesh import (
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
from igpt_jax.sampling.rules import Rules
from igpt_jax.training.flops import block_weights
from igpt_jax.training.step import make_model


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
    ways, tensor, kept = batch_ways(mesh), mesh.shape["tensor"], cfg.sampler.cache
    weights, cache = bytes_read_per_slot(cfg.model, cfg.compute, n // ways, tensor, kept)
    arguments = Memory(bytes_at_one_device(params), bytes_at_one_device(batch), target.chip.hbm_bytes)
    lowered = traced_on(mesh, decode.lower)(make_model(cfg).clone(cache=kept), params, **batch)
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
    rules, whole = Rules.of(replace(cfg.sampler, guidance=1.0)), replicated(mesh)
    return {
        "prompt": Prompt(**abstract_arrays(shapes, mesh)),
        "rules": jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), rules),
        **abstract_arrays({"keys_B": ((n,), jax.random.key(0).dtype)}, mesh),
    }
