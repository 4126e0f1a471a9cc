"""Accelerators elsewhere: their devices, as their compilers describe them on any machine."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from igpt_jax.analysis.chips import Chip, parse_topology
from igpt_jax.analysis.planning import gpus
from igpt_jax.errors import InputError, first_line
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
    """The chip of a topology, and how many there are along each side of a slice. Does not load the compiler.

    Raises:
      InputError: an unknown chip or shape, less than one slice, several of GPUs, or the compiler is not installed.
    """
    chip, sides = parse_topology(topology)
    if slices < 1:
        raise InputError(f"slices: must be at least 1, not {slices}")
    if chip.is_gpu and slices > 1:
        raise InputError(f"slices: must be 1 for GPUs (one node can be planned), not {slices}")
    kind, extra, packages = "TPU", "tpu", ["libtpu"]
    if chip.is_gpu:
        kind, extra, packages = "GPU", "cuda12", ["jax_cuda12_plugin", "jax_cuda13_plugin"]
    if not any(map(importlib.util.find_spec, packages)):
        raise InputError(f"topology {topology}: the {kind} compiler is not installed; pip install 'igpt_jax[{extra}]'")
    return chip, sides


def describe(topology: str, slices: int = 1) -> Target:
    """The devices of a topology such as v5p:8x8x8, or of several such slices joined by the data-centre network.

    Call it before anything that asks JAX for devices. It keeps JAX on the CPU, since the programs of a plan never run.
    """
    chip, sides = check_topology(topology, slices)
    chips = math.prod(sides)
    if chip.is_gpu:
        return Target(topology, gpus.describe(topology, chip.name, chips), chip)
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
