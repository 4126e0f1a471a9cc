"""What a compiled program sends between its devices, read from its HLO text.

A collective is counted once, whether it is one instruction, a start and a done, or cut into pieces that are parts of
other fusions; and once for every iteration of the loops around it. Its groups say which network it crosses.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute", "collective-broadcast")

_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\(([^)]*)\)?(.*)")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = r"(?:calls|body|\w+_computations?)=(\{[^}]*\}|[^,\s]*)"
# A fusion of this name is never cut into pieces. A loop and an iteration peeled off it share its channel.
_SCATTER = "all-reduce-scatter"


@dataclass(frozen=True)
class Collective:
    """One collective of a compiled program, at one device."""

    kind: str
    payload: int
    """Bytes of one execution: the result of an all-gather, the arguments of any other."""
    times: int
    """Executions per step."""
    groups: np.ndarray
    """int [G, g]: a row for each group of positions in the mesh; the pairs of a permute."""
    dims: tuple[int, ...]
    """Of the largest result."""
    overlapped: bool
    """Whether other work can run meanwhile: it has a start and a done, or is part of a fusion."""
    where: str
    """The operation in the source that it comes from."""
    dcn: bool = False
    """Whether it joins each device with those at its place in other slices; `groups` is then meaningless."""


class _Op(NamedTuple):
    root: str | None
    name: str
    result: str
    opcode: str
    inner: str
    """What the parentheses hold: the operands, or the value of a constant."""
    attrs: str

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.inner)

    @property
    def constant(self) -> int | None:
        return int(self.inner) if self.opcode == "constant" and re.fullmatch(r"-?\d+", self.inner) else None

    def find(self, pattern: str) -> str:
        """What the group of the pattern matches in the attributes; empty without a match."""
        match = re.search(pattern, self.attrs)
        return match[1] if match else ""


_Computation = dict[str, _Op]
"""Name -> instruction."""


def traffic(text: str, devices: int) -> tuple[list[Collective], list[str]]:
    """The collectives in the text of an optimised HLO module, and the loops of unknown length (counted as one). The
    program numbers the `devices` of one slice."""
    computations, entry = _parse(text)
    visits, fused, unknown_loops = Counter[str](), dict[str, bool](), list[str]()

    def visit(name: str, times: int, inside: bool) -> None:
        visits[name] += times
        fused[name] = inside
        for op in computations[name].values():
            if op.opcode in ("async-done", "async-update"):
                continue  # they name the same computation as their start
            iterations = trip_count(op, computations, computations[name]) if op.opcode == "while" else 1
            if not iterations:
                unknown_loops.append(op.name)
            overlaps = inside or op.opcode in ("fusion", "async-start", "call-start")
            # What is applied to pairs of elements, as in a sum, is no call. The TPU compiler starts collectives on the
            # sparse cores by a call. All branches of a conditional are counted.
            called = _CALLED.replace("calls", "calls|to_apply") if op.opcode in ("call", "call-start") else _CALLED
            for callee in filter(computations.get, _NAME.findall(" ".join(re.findall(called, op.attrs)))):
                visit(callee, times * (iterations or 1), overlaps)

    visit(entry, 1, False)
    collectives: list[Collective] = []
    pieces: dict[str, Collective] = {}  # collectives inside fusions, by channel: several pieces are one
    for name, times in visits.items():
        for op in computations[name].values():
            one = _collective(op, name, computations[name], times, fused[name], devices)
            channel = op.find(r"channel_id=(\d+)")
            if one and fused[name] and channel and not name.startswith(_SCATTER):
                # The piece that runs least often is in the outermost loop, where the collective itself belongs.
                pieces[channel] = min(pieces.get(channel, one), one, key=lambda piece: piece.times)
            elif one:
                collectives.append(one)
    return [*collectives, *pieces.values()], unknown_loops


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():  # the text of a kernel has lines of any kind; only headers and instructions count
        if head := _COMPUTATION.match(line):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif current is not None and (instruction := _INSTRUCTION.match(line)):
            current[instruction[2]] = _Op(*instruction.groups())
    if not entry:
        raise ValueError("no HLO module: there is no ENTRY computation")
    return computations, entry


def trip_count(loop: _Op, computations: dict[str, _Computation], around: _Computation) -> int | None:
    """Iterations of a while loop: the compiler's note, or from `counter < constant`, its start and its step."""
    if note := loop.find(r'"known_trip_count":\{"n":"(\d+)"\}'):
        return int(note)
    condition, body = (computations[loop.find(rf"{part}=%?([\w.\-]+)")] for part in ("condition", "body"))
    compare = next((op for op in condition.values() if op.opcode == "compare"), None)
    if compare is None or "direction=LT" not in compare.attrs:
        return None
    counter, bound = (_origin(condition, name) for name in compare.operands)
    if not (index := counter.find(r"\bindex=(\d+)")) or bound.constant is None:
        return None
    # If start or step is not in sight, they are 0 and 1, as in every loop that JAX writes.
    start = _element(around, loop.operands[0], int(index))
    update = _element(body, next(op.name for op in body.values() if op.root), int(index))
    added = update.operands if update and update.opcode == "add" else []
    step = next(filter(None, (_origin(body, name).constant for name in added)), 1)
    return math.ceil((bound.constant - ((start and start.constant) or 0)) / step)


def _origin(computation: _Computation, name: str) -> _Op:
    """The instruction that makes a value, behind those that only move it."""
    op = computation[name]
    while op.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
        op = computation[op.operands[0]]
    return op


def _element(computation: _Computation, name: str, index: int) -> _Op | None:
    """The instruction that makes one element of a tuple; None if it is not in sight."""
    op = _origin(computation, name)
    return _origin(computation, op.operands[index]) if op.opcode == "tuple" else None


def arrays(text: str) -> list[tuple[int, tuple[int, ...]]]:
    """(bytes, dims) of each array in the text of a type, without the padding of a device's tiles."""
    found = []
    for dtype, text_dims in _ARRAY.findall(text):
        bits, dims = re.search(r"\d+", dtype), tuple(_ints(text_dims))
        width = int(bits[0]) / 8 if bits else int(dtype == "pred")  # tokens and the like have no bytes
        found.append((math.ceil(math.prod(dims) * width), dims))
    return found


def _collective(
    op: _Op, name: str, computation: _Computation, times: int, fused: bool, devices: int
) -> Collective | None:
    """The collective that an instruction of the computation `name` is, if it is one."""
    kind = op.opcode.removesuffix("-start")
    # The TPU compiler gives what goes between slices to the host: each device sends its share and receives the result.
    dcn = kind == "send" and "megascale" in op.attrs
    if dcn:
        kind = op.find(r'_xla_megascale_transfer_type="(\w+)"').lower().replace("_", "-") or kind
    elif kind not in KINDS:
        return None
    elif fused and kind == "all-reduce" and name.startswith(_SCATTER):
        kind = "reduce-scatter"  # the TPU compiler writes it as a fusion of an all-reduce and a slice
    groups = np.zeros((1, 1), int) if dcn else parse_groups(op.attrs, devices)
    size = sum(n for operand in op.operands for n, _ in arrays(computation[operand].result))
    return Collective(
        kind=kind,
        payload=size * (groups.shape[1] if kind == "all-gather" else 1),
        times=times,
        groups=groups,
        dims=max(arrays(op.result), key=lambda array: array[0])[1],
        overlapped=dcn or fused or op.opcode.endswith("-start"),
        where=op.find(r'(?:op_name|_xla_host_transfer_rendezvous)="([^"]*)"'),
        dcn=dcn,
    )


def parse_groups(attrs: str, devices: int) -> np.ndarray:
    """int [G, g] from an instruction's attributes: explicit, iota or mesh-axes groups, or the pairs of a permute.
    Without groups, all devices are one."""
    if explicit := re.search(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}", attrs):
        rows = [_ints(row) for row in re.findall(r"\{([\d,]+)\}", explicit[1])]
        return np.array(rows or [range(devices)])
    if mesh := re.search(r"replica_groups=(?:@\w+)?mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? ?\{([^}]*)\}", attrs):
        return _mesh_groups(*mesh.groups())
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=(\[.*)", attrs):
        return _device_ids(iota[2]).reshape(_ints(iota[1]))
    if "replica_groups=" in attrs:
        raise ValueError(f"replica groups in an unknown form: {attrs[:200]}")
    return np.arange(devices)[None]


def _ints(text: str) -> list[int]:
    return [int(x) for x in text.split(",") if x]


def _device_ids(text: str) -> np.ndarray:
    """'[4,2]T(1,0)' -> 0..7 reshaped to [4, 2] and transposed; '3,2,1,0' as it is."""
    iota = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota is None:
        return np.array(_ints(text))
    ids = np.arange(math.prod(_ints(iota[1]))).reshape(_ints(iota[1]))
    return ids.transpose(_ints(iota[2])) if iota[2] else ids


def _mesh_groups(axes: str, device_ids: str | None, along: str) -> np.ndarray:
    """mesh['a'=2,'b'=4] {'b'}, or {'b':(2)2} for a part of an axis: of size 2, with a part of size 2 before it."""
    parts = {name: rest for name, *rest in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along)}
    dims: list[int] = []  # each axis as three dims: before the part, the part, after it
    for name, size in ((name, int(size)) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)):
        before, part = (int(text or default) for text, default in zip(parts.get(name, (size, 1)), (1, size)))
        dims += [before, part, size // (before * part)]
    ids = _device_ids(device_ids) if device_ids else np.arange(math.prod(dims))
    parts_last = sorted(range(len(dims)), key=lambda dim: dim % 3 == 1)
    return ids.reshape(dims).transpose(parts_last).reshape(-1, math.prod(dims[1::3]))


def axes_crossed(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of a row-major mesh (axis -> size) along which the members of some group (int [G, g]) differ."""
    indices = np.unravel_index(groups, tuple(mesh.values()))
    return tuple(axis for axis, index in zip(mesh, indices, strict=True) if (index != index[:, :1]).any())
