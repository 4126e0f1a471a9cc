"""FLOPs of a training step, from formulas and the shapes of the parameters, and the rates that follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from igpt_jax.config import ComputeConfig, Config, ModelConfig
from igpt_jax.model import ImageGPT, abstract_params, is_projection
from igpt_jax.model.attention import BACKENDS
from igpt_jax.parallel.mesh import path_name

PEAK_FLOPS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""Part of the device kind that JAX names, the longer first -> peak bfloat16 FLOP/s of a chip, as its maker says
(sources: `analysis.chips`)."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of a training step over all devices: 6 per token and weight of the blocks' matrices, and attention's.

    The output head, embeddings and norms are not counted.
    """

    headline: int
    """Attention by the keys that a query sees: 6 L D T per token if causal, 12 L D T if not. MFU counts this."""
    noncausal: int
    """Attention as if every query saw every key, 12 L D T per token. Some reports count this."""
    executed: int
    """FLOPs executed, including rematerialisation and the products that a fused attention kernel repeats."""


def block_weights(cfg: ModelConfig) -> int:
    """How many numbers the blocks' weight matrices hold, over all layers."""
    leaves = jax.tree.leaves_with_path(abstract_params(cfg))
    return sum(x.size for path, x in leaves if is_projection(path_name(path)))


def slots(cfg: ModelConfig) -> int:
    """Slots of one image in the blocks: the prefix and the tokens."""
    return cfg.prefix_slots + cfg.n_ctx


def training_flops(cfg: ModelConfig, compute: ComputeConfig, images: int) -> Flops:
    """FLOPs of a step over that many images. `compute.attention` names the backend; auto counts as reference."""
    t, weights = slots(cfg), block_weights(cfg)
    every = 12 * cfg.n_layer * cfg.d_model * t
    mask = ImageGPT(cfg).mask
    seen = int(every * {"causal": 0.5, "full": 1.0, "prefix": (1 + (mask.prefix / t) ** 2) / 2}[mask.kind])
    # Attention's share is six products, two of them in the forward pass. A backward pass needs four and repeats some;
    # remat dots repeats the forward pass, too, unless it saves what the backend put out.
    backend = BACKENDS.get(compute.attention, BACKENDS["reference"])
    product, forward = seen // 6, seen // 3
    repeated = product * (backend.backward_products(t) - 4)
    repeated += {"none": 0, "dots": 0 if backend.saves else forward, "full": 2 * weights + forward}[compute.remat]
    headline = 6 * weights + seen
    tokens = images * t
    return Flops(tokens * headline, tokens * (6 * weights + every), tokens * (headline + repeated))


def published_peak() -> float | None:
    """FLOP/s of all devices in bfloat16 as their maker says, None if they are not in the table."""
    kind = jax.devices()[0].device_kind
    return next((peak * jax.device_count() for name, peak in PEAK_FLOPS.items() if name in kind), None)


def memory_peak() -> int | None:
    """The most bytes that were in use on this process's first device; None where it does not say (CPUs)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def rates_of(cfg: Config) -> Callable[[float], dict[str, float]]:
    """What images per second mean in training: FLOP/s, their share of the published peak, and memory where known."""
    image = training_flops(cfg.model, cfg.compute, 1).headline
    peak = published_peak()

    def rates(images_per_s: float) -> dict[str, float]:
        values = {"tflops_per_s": images_per_s * image / 1e12}
        if peak is not None:
            values["mfu"] = images_per_s * image / peak
        if (memory := memory_peak()) is not None:
            values["memory_gb"] = memory / 1e9
        return values

    return rates
