"""Flags of the TPU compiler, by the version of libtpu that is installed. This module does not import JAX."""

from __future__ import annotations

import os
import re
from importlib import metadata

VARIABLE = "LIBTPU_INIT_ARGS"

EVERYWHERE = "--xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true"
"""What all versions that were tried take (0.0.42 and 0.0.52)."""

OVERLAP = " ".join(
    (
        "--xla_tpu_enable_async_collective_fusion=true",
        "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
        "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
        EVERYWHERE,
    )
)
"""With these the compiler of libtpu 0.0.42 gathers weights beside other work. 0.0.52 refuses the first three on all
chips but v5e; what it overlaps without them is not known."""

LAST_WITH_OVERLAP = (0, 0, 42)


def tpu_flags() -> str:
    """The flags for the libtpu that is installed: all up to 0.0.42, and `EVERYWHERE` for later versions."""
    try:
        version = metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return ""
    known = tuple(map(int, re.findall(r"\d+", version)[:3])) <= LAST_WITH_OVERLAP
    return OVERLAP if known else EVERYWHERE


def set_tpu_flags() -> None:
    """Sets LIBTPU_INIT_ARGS unless it is set, even to nothing.

    Call it before JAX is imported: on a TPU, JAX sets the variable, too, when it is imported.
    """
    flags = tpu_flags()
    if flags:
        os.environ.setdefault(VARIABLE, flags)
