"""NVIDIA GPUs elsewhere: XLA compiles for them on any machine that has the CUDA plugin of JAX.

Kernels are not tuned there, since tuning runs them: on a GPU, XLA may take other ones.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

import jax
from jax.experimental import topologies

from igpt_jax.errors import InputError, first_line
from igpt_jax.model.attention import cudnn

CUDNN_VERSION = 91000
"""The version of cuDNN that is assumed, as cuDNN writes it."""

_MEMORY = {"h100": (84_942_979_072, 3_352_320_000_000), "h200": (151_397_597_184, 4_800_000_000_000)}
"""Name -> bytes that CUDA reports, and bytes per second."""

_HOPPER = """
platform_name: "CUDA"
device_description_str: "{name}"
dnn_version_info {{ major: 9 minor: 10 }}
gpu_device_info {{
  name: "{name}" device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  device_memory_size: {size} memory_bandwidth: {rate} l2_cache_size: 52428800 clock_rate_ghz: 1.98
  core_count: 132 fpus_per_core: 128 threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_core: 233472 shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  runtime_version: "12.8.0" driver_version: "13.0.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
}}
"""
"""XLA's GpuTargetConfigProto of an H100 or H200 (figures: xla/backends/gpu/target_config/specs of openxla/xla)."""


def describe(topology: str, chip: str, count: int) -> tuple[Any, ...]:
    """Devices of `count` GPUs of one node. The process must be one that only plans: JAX is kept on the CPU in it."""
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # versions of libraries that only a run needs
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    jax.config.update("jax_platforms", "cpu")
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.CRITICAL)  # it reports that no GPU is here
    size, rate = _MEMORY[chip]
    config = _HOPPER.format(name=f"NVIDIA {chip.upper()}", size=size, rate=rate)
    try:
        described = topologies.get_topology_desc(
            platform="cuda", topology_name=chip, target_config=config, topology=f"1x1x{count}"
        )
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        raise InputError(f"topology {topology}: the GPU compiler refuses it: {first_line(error)}") from None
    devices = tuple(described.devices)
    _answer_for(devices[0])
    return devices


def _answer_for(device: Any) -> None:
    """Lets JAX and this package ask the GPU elsewhere what cuDNN can do, since none is here."""
    cudnn.elsewhere = device
    attention: Any = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    capability = float(device.compute_capability)
    attention.check_cudnn_version = lambda: CUDNN_VERSION
    attention.check_compute_capability = lambda least: capability >= float(least)
    attention.is_cuda_compute_capability_equal = lambda other: capability == float(other)
