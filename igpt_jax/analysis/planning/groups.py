"""The groups of devices that a collective joins, in all the forms of HLO text, and the mesh axes that they cross."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np


def axes_crossed(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the members of some group differ.

    Args:
      groups: int [G, g], positions of devices in the mesh, row-major.
      mesh: axis -> size.
    """
    indices = np.unravel_index(groups, tuple(mesh.values()))
    return tuple(axis for axis, index in zip(mesh, indices, strict=True) if (index != index[:, :1]).any())


def parse_groups(attrs: str, devices: int) -> np.ndarray:
    """int [G, g] from an instruction's attributes: explicit, iota or mesh-axes groups, or the pairs of a permute.

    Without groups, all devices are one.

    Raises:
      ValueError: groups in an unknown form.
    """
    if explicit := re.search(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}", attrs):
        rows = [ints(row) for row in re.findall(r"\{([\d,]+)\}", explicit[1])]
        return np.array(rows or [range(devices)])
    if mesh := re.search(r"replica_groups=(?:@\w+)?mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? ?\{([^}]*)\}", attrs):
        return _mesh_groups(*mesh.groups())
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attrs):
        return _iota(iota[2], iota[3]).reshape(ints(iota[1]))
    if "replica_groups=" in attrs:
        raise ValueError(f"replica groups in an unknown form: {attrs[:200]}")
    return np.arange(devices)[None]


def ints(text: str) -> list[int]:
    """'2,3' -> [2, 3]."""
    return [int(x) for x in text.split(",") if x]


def _iota(shape: str, order: str | None) -> np.ndarray:
    """'4,2' and '1,0' -> 0..7 reshaped to [4, 2] and transposed."""
    ids = np.arange(math.prod(ints(shape))).reshape(ints(shape))
    return ids.transpose(ints(order)) if order else ids


def _mesh_groups(axes: str, device_ids: str | None, along: str) -> np.ndarray:
    """mesh['a'=2,'b'=4] {'b'}, or {'b':(2)2} for a part of an axis: of size 2, with a part of size 2 before it."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    parts = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along)
    inside = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in parts}
    dims: list[int] = []  # each axis as three dims: before the part, the part, after it
    for name, size in sizes.items():
        before, part = inside.get(name, (size, 1))
        dims += [before, part, size // (before * part)]
    ids = np.arange(math.prod(dims))
    if device_ids:
        iota = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", device_ids)
        ids = _iota(iota[1], iota[2]) if iota else np.array(ints(device_ids))
    ways = math.prod(part for _, part in inside.values())
    parts_last = sorted(range(len(dims)), key=lambda dim: dim % 3 == 1)
    return ids.reshape(dims).transpose(parts_last).reshape(-1, ways)
