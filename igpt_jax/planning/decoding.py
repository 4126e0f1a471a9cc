"""Plans of decoding on accelerators that are not here: the sampler's own program, compiled for them and read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from igpt_jax.config import Config, ModelConfig
from igpt_jax.model import AXES, ImageGPT
from igpt_jax.parallel.mesh import batch_sharding, batch_ways, check_splits, make_mesh, placed
from igpt_jax.planning.hlo import traffic
from igpt_jax.planning.network import Row, summary
from igpt_jax.planning.plan import Memory, bytes_at_one_device, compile_for, settle
from igpt_jax.planning.topology import Target
from igpt_jax.sampling.sampler import sample_tokens, segment_ends
from igpt_jax.training.pretrained import abstract_params


@dataclass(frozen=True)
class DecodingPlan:
    """What drawing a batch of images costs on a target."""

    topology: str
    devices: int
    mesh: dict[str, int]
    model: ModelConfig
    images: int
    memory: Memory
    weight_bytes: int
    """Weights that one position reads at one device, in the compute type."""
    cache_bytes: int
    """Keys and values that one position reads at one device, on average over the segments of the sampler's cache."""
    images_per_s: float
    """At most, over all devices: what memory and network allow."""
    collectives: tuple[Row, ...] = ()
    compile_seconds: float = 0.0

    @property
    def step_bytes(self) -> int:
        """Bytes that one position reads at one device."""
        return self.weight_bytes + self.cache_bytes

    @property
    def fits(self) -> bool:
        """Whether it can run there."""
        return self.memory.fits


def read_a_position(model: ModelConfig, images: int, tensor: int = 1) -> tuple[int, int]:
    """(weights, keys and values): bytes that a device reads for one position of `images` images, on average.

    The blocks' weights are read once for all images; an image's cache as far as its segment goes.
    """
    width = jnp.dtype(model.dtype).itemsize
    ends = segment_ends(model.n_ctx)
    rows = sum((end - start) * end for start, end in zip([0, *ends], ends, strict=False)) // model.n_ctx
    weights = 12 * model.n_layer * model.d_model**2 * width // tensor
    return weights, images * 2 * model.n_layer * model.d_model * width * rows // tensor


def plan_decoding(cfg: Config, target: Target) -> DecodingPlan:
    """Compiles the sampler for train.batch_size new images on a target, and reads what it costs.

    Weights lie as the mesh says and the images are split over data and fsdp.

    Raises:
      InputError: a BERT model; sizes that do not divide over the mesh, or the mesh over the devices.
    """
    cfg = settle(cfg, target)
    model, n = ImageGPT(cfg.model), cfg.train.batch_size
    mesh = make_mesh(cfg.mesh, list(target.devices))
    check_splits(n, 1, mesh)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        params = placed(abstract_params(model), mesh, AXES)
        rows = batch_sharding(mesh)
        batch = {
            "tokens_BT": jax.ShapeDtypeStruct((n, cfg.model.n_ctx), jnp.int32, sharding=rows),
            "known_BT": jax.ShapeDtypeStruct((n, cfg.model.n_ctx), jnp.bool_, sharding=rows),
            "keys_B": jax.ShapeDtypeStruct(
                (n,), jax.random.key(0).dtype, sharding=NamedSharding(mesh, P(rows.spec[0]))
            ),
        }
        lowered = sample_tokens.lower(model, params, cfg=cfg.sampler, **batch)
    local = n // batch_ways(mesh)
    weights, cache = read_a_position(cfg.model, local, mesh.shape["tensor"])
    capacity = target.chip.hbm_bytes
    parts = dict(moments=0, ema=0, padding=0, outputs=0, temporaries=0, code=0, capacity=capacity)
    rate = n / (cfg.model.n_ctx * (weights + cache) / target.chip.hbm_rate)
    base = DecodingPlan(
        topology=target.name,
        devices=len(target.devices),
        mesh=dict(mesh.shape),
        model=cfg.model,
        images=n,
        memory=Memory(params=bytes_at_one_device(params), batch=local * (5 * cfg.model.n_ctx + 8), **parts),
        weight_bytes=weights,
        cache_bytes=cache,
        images_per_s=rate,
    )
    compiled, memory, seconds = compile_for(lowered, base.memory)
    if compiled is None:
        return replace(base, memory=memory, compile_seconds=seconds)
    found = tuple(
        summary(traffic(compiled.as_text() or "", len(target.devices) // target.slices).collectives, mesh, target.chip)
    )
    network = sum(row.seconds for row in found)
    return replace(
        base,
        memory=memory,
        images_per_s=min(rate, n / network) if network else rate,
        collectives=found,
        compile_seconds=seconds,
    )
