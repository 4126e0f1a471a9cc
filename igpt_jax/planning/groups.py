"""Which devices a collective joins: replica groups in all the forms that HLO text has for them, and the mesh axes
they cross.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np


def axes_crossed(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the members of some group differ. Positions are row-major in the mesh."""
    places = np.unravel_index(groups, tuple(mesh.values()))
    return tuple(axis for axis, place in zip(mesh, places, strict=True) if (place != place[:, :1]).any())


def parse_groups(attrs: str, devices: int) -> np.ndarray:
    """int [G, g] from an instruction's attributes: explicit, iota or mesh-axes groups, or a permute's pairs.

    Raises:
      ValueError: groups in no form that is known here.
    """
    explicit = re.search(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}", attrs)
    if explicit:
        rows = [ints(row) for row in re.findall(r"\{([\d,]*)\}", explicit[1])]
        return np.array(rows if rows and rows[0] else [range(devices)])
    mesh = re.search(r"replica_groups=(?:@\w+)?mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? ?\{([^}]*)\}", attrs)
    if mesh:
        return _mesh_groups(*mesh.groups())
    iota = re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", attrs)
    if iota:
        return _iota(iota[1])
    if "replica_groups=" in attrs:
        raise ValueError(f"replica groups in an unknown form: {attrs[:200]}")
    return np.arange(devices)[None]


def ints(text: str) -> list[int]:
    """'2,3' -> [2, 3]."""
    return [int(x) for x in text.split(",") if x]


def _iota(text: str) -> np.ndarray:
    """[2,4]<=[4,2]T(1,0): the numbers in order, shaped [4, 2], transposed, shaped [2, 4]."""
    shape, dims, order = re.fullmatch(r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?", text).groups()  # pyright: ignore[reportOptionalMemberAccess]
    dims = ints(dims or shape)
    ids = np.arange(math.prod(dims)).reshape(dims)
    return (ids.transpose(ints(order)) if order else ids).reshape(ints(shape))


def _mesh_groups(axes: str, device_ids: str | None, along: str) -> np.ndarray:
    """mesh['a'=2,'b'=4] {'b'} or, of part of an axis, {'b':(2)2}: that which comes after 2, 2 long."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    taken = {name: (int(pre or 1), int(n) if n else sizes[name]) for name, pre, n in _SUB_AXES.findall(along)}
    dims: list[int] = []
    inside: list[int] = []
    for name, size in sizes.items():
        pre, n = taken.get(name, (size, 1))
        inside.append(len(dims) + 1)
        dims += [pre, n, size // (pre * n)]
    inside = [dim for name, dim in zip(sizes, inside, strict=True) if name in taken]
    count = math.prod(sizes.values())
    if not device_ids:
        ids = np.arange(count)
    elif device_ids.startswith("["):
        shape, _, order = device_ids.partition("T")
        ids = np.arange(count).reshape(ints(shape.strip("[]"))).transpose(ints(order.strip("()"))).reshape(-1)
    else:
        ids = np.array(ints(device_ids))
    outside = [dim for dim in range(len(dims)) if dim not in inside]
    ways = math.prod(dims[dim] for dim in inside)
    return ids.reshape(dims).transpose(outside + inside).reshape(-1, ways)


_SUB_AXES = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")
