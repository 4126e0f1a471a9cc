"""Accelerators elsewhere: their devices, as their compilers describe them on any machine.

XLA compiles for NVIDIA GPUs wherever JAX has its CUDA plugin. Kernels are not tuned there, since tuning runs them: on
a GPU, XLA may take other ones.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import math
import os
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.experimental import topologies

from igpt_jax.analysis.chips import Chip, parse_topology
from igpt_jax.errors import InputError, first_line
from igpt_jax.model.attention import BACKENDS, cudnn
from igpt_jax.tpu_flags import set_tpu_flags

_ACCELERATOR = {"v5e": "v5litepod-{chips}", "v5p": "v5p-{cores}", "v6e": "v6e-{chips}", "tpu7x": "tpu7x-{cores}"}

_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is opened, so several plans may run at once
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""What the TPU compiler reads when it is loaded: it must not look for a TPU but compile for the one described."""


@dataclass(frozen=True)
class Target:
    """Devices that a program can be compiled for, and their figures."""

    name: str
    devices: tuple[Any, ...]
    chip: Chip
    """The figures of one device."""
    slices: int = 1

    @property
    def platform(self) -> str:
        """'tpu', 'gpu', or 'cpu' in a test."""
        return self.devices[0].platform


def check_topology(topology: str, slices: int) -> tuple[Chip, tuple[int, ...]]:
    """The chip of a topology, and how many there are along each side of a slice. Does not load the compiler."""
    chip, sides = parse_topology(topology)
    if slices < 1:
        raise InputError(f"slices: must be at least 1, not {slices}")
    if chip.is_gpu and slices > 1:
        raise InputError(f"slices: must be 1 for GPUs (one node can be planned), not {slices}")
    compiler, packages = "TPU compiler is not installed; pip install 'igpt_jax[tpu]'", ["libtpu"]
    if chip.is_gpu:
        compiler = "GPU compiler is not installed; pip install 'igpt_jax[cuda12]'"
        packages = ["jax_cuda12_plugin", "jax_cuda13_plugin"]
    if not any(map(importlib.util.find_spec, packages)):
        raise InputError(f"topology {topology}: the {compiler}")
    return chip, sides


def describe(topology: str, slices: int = 1) -> Target:
    """The devices of a topology such as v5p:8x8x8, or of several such slices joined by the data-centre network.

    Call it before anything that asks JAX for devices. It keeps JAX on the CPU, since the programs of a plan never run.
    """
    chip, sides = check_topology(topology, slices)
    chips = math.prod(sides)
    if chip.is_gpu:
        return Target(topology, _describe_gpus(topology, chip.name, chips), chip)
    kind = _ACCELERATOR[chip.name].format(chips=chips, cores=2 * chips)
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", kind)
    set_tpu_flags()
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    jax.config.update("jax_platforms", "cpu")
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # otherwise a host has four
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"topology {topology}: the TPU compiler refuses it: {first_line(error)}") from None
    return Target(topology, tuple(devices), chip.devices(len(devices) // (chips * slices)), slices)


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


def _describe_gpus(topology: str, chip: str, count: int) -> tuple[Any, ...]:
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
    refusal = functools.partial(cudnn.refusal, device=device)
    BACKENDS["cudnn"] = replace(cudnn.BACKEND, refusal=refusal)
    attention: Any = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    capability = float(device.compute_capability)
    attention.check_cudnn_version = lambda: CUDNN_VERSION
    attention.check_compute_capability = lambda least: capability >= float(least)
    attention.is_cuda_compute_capability_equal = lambda other: capability == float(other)
