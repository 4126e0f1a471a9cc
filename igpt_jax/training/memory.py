"""Whether a run can fit into memory at all, before it is started.

On CPUs a process that takes too much is killed without a word, or aborted by C++; a line beforehand says more.
"""

from __future__ import annotations

import math
import os

import jax

from igpt_jax.errors import InputError
from igpt_jax.parallel.mesh import bytes_at_one_device
from igpt_jax.training.step import TrainState


def check_memory(state: TrainState) -> None:
    """Checks that a device can hold what a run always holds there: the (abstract) state, and a gradient.

    Activations come on top, so a run that passes may still be too large.

    Raises:
      InputError: it cannot; the message has both sizes and the way out.
    """
    needed = bytes_at_one_device(state) + bytes_at_one_device(state.params)
    available = memory_of_a_device()
    if needed > available:
        raise InputError(
            f"out of memory: weights, moments and gradient take {needed / 1e9:.1f} GB on every device, and there are "
            f"{available / 1e9:.1f}; take a smaller model, or split it over several devices with --mesh.fsdp"
        )


def memory_of_a_device() -> float:
    """Bytes: what the device says, or this process's share of the host's memory where devices are CPUs."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit", math.inf)
    return memory_of_the_host() / jax.local_device_count()


def memory_of_the_host() -> float:
    """Bytes: what this process may take of the host's memory."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total if limit == resource.RLIM_INFINITY else min(limit, total)
