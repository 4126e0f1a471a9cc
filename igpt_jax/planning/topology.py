"""Accelerators that are not here: their devices, as the TPU compiler describes them on any machine."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from igpt_jax.config import InputError
from igpt_jax.planning.chips import Chip, chip_of
from igpt_jax.planning.network import OVERLAP
from igpt_jax.validation import first_line

_ACCELERATOR = {"v5e": "v5litepod-{chips}", "v5p": "v5p-{cores}", "v6e": "v6e-{chips}", "tpu7x": "tpu7x-{cores}"}


@dataclass(frozen=True)
class Target:
    """What a plan is for: devices that a program can be compiled for, and what one of them is."""

    name: str
    devices: tuple[Any, ...]
    chip: Chip
    """The figures of one device."""
    slices: int = 1

    @property
    def platform(self) -> str:
        """'tpu', or 'cpu' in a test."""
        return self.devices[0].platform


def describe(topology: str, slices: int = 1) -> Target:
    """The devices of a topology such as v5p:8x8x8, or of several such slices joined by the data-centre network.

    Must be asked before JAX opens its devices: the programs of a plan run nowhere, so JAX stays on the CPU.

    Raises:
      InputError: an unknown chip or shape, fewer slices than one, or the TPU compiler is not installed.
    """
    chip = chip_of(topology)
    if slices < 1:
        raise InputError(f"--slices {slices}: must be at least 1")
    name, _, shape = topology.partition(":")
    if not shape or not all(n.isdigit() and int(n) for n in shape.split("x")):
        raise InputError(f"--topology {topology}: the shape is counts of chips, such as {name}:4x4")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"--topology {topology}: the TPU compiler is not installed; pip install -e '.[tpu]'")
    _prepare(name, shape)

    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **({"num_slices": slices} if slices > 1 else {})
        )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"--topology {topology}: {first_line(error)}") from None
    chips = {(getattr(d, "slice_index", 0), tuple(d.coords)) for d in found.devices}
    return Target(topology, tuple(found.devices), chip.devices(len(found.devices) // len(chips)), slices)


def _prepare(name: str, shape: str) -> None:
    """What the TPU compiler reads from the environment when it is loaded: do not look for a TPU, take this for one."""
    chips = 1
    for n in shape.split("x"):
        chips *= int(n)
    kind = _ACCELERATOR[name].format(chips=chips, cores=2 * chips)
    for key, value in {
        "TPU_ACCELERATOR_TYPE": kind,
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "LIBTPU_INIT_ARGS": OVERLAP,  # as the launchers have it
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is opened, so plans may be made side by side
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(key, value)
