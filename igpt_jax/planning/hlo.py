"""What a compiled program sends between its devices, read from its HLO text.

A collective is counted once however it is written (plain, as a start and a done, or cut into pieces that ride along
with other fusions), and as often as the loops around it turn. Which network it crosses is told by its groups.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from igpt_jax.planning.groups import ints, parse_groups

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute", "collective-broadcast")

_WIDTH = {"pred": 1, "token": 0, "opaque": 0, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}
_SHAPE = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_SCATTER = "all-reduce-scatter"  # a fusion that is never cut; a loop and the turn taken out of it share its channel
_CALLED = re.compile(r"(?:calls|body|true_computation|false_computation|called_computations|branch_computations)=")


class Shape(NamedTuple):
    """An array's element type and dims."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of the array as it is numbered, without what a device's tiles add."""
        width = _WIDTH.get(self.dtype)
        if width is None:
            width = int(re.sub(r"\D.*", "", self.dtype.lstrip("abcdefghijklmnopqrstuvwxyz"))) / 8
        return math.ceil(math.prod(self.dims) * width)


@dataclass(frozen=True)
class Collective:
    """One collective of a compiled program, as every device takes part in it."""

    kind: str
    payload: int
    """Bytes at one device, once: what an all-gather yields, what any other takes in."""
    times: int
    """How often a run of the program comes by."""
    groups: np.ndarray
    """int [G, g]: positions in the mesh, row by row those that talk to each other; of a permute its pairs."""
    dims: tuple[int, ...]
    """Of the largest result."""
    overlapped: bool
    """Whether other work can run meanwhile: it has a start and a done, or rides along with a fusion."""
    where: str
    """The operation in the source it comes from."""
    dcn: bool = False
    """Between slices: every device with those in its place in the other slices, and `groups` says nothing."""

    @property
    def ways(self) -> int:
        """Devices in a group."""
        return self.groups.shape[1]


class Traffic(NamedTuple):
    """The collectives of a program, and loops whose turns could not be told (counted as one)."""

    collectives: list[Collective]
    unknown_loops: list[str]


@dataclass(frozen=True)
class _Op:
    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    text: str
    """What stands between the operands' parentheses."""
    attrs: str
    root: bool


_Computation = dict[str, _Op]


def traffic(text: str, devices: int) -> Traffic:
    """Reads the text of an optimised HLO module (`compiled.as_text()`) for `devices` partitions, those of one slice.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry = _parse(text)
    unknown: list[str] = []
    visits = _visits(computations, entry, unknown)
    found: list[Collective] = []
    pieces: dict[str, Collective] = {}  # collectives inside fusions, by channel: several pieces are one
    for name, (times, fused) in visits.items():
        for op in computations[name].values():
            if op.opcode == "send" and "megascale" in op.attrs:
                found.append(_between_slices(op, computations[name], times))
            kind = op.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            one = _collective(op, kind, computations[name], times, devices, name, fused)
            channel = re.search(r"channel_id=(\d+)", op.attrs)
            if fused and channel and not name.startswith(_SCATTER):
                before = pieces.get(channel[1])
                # The first piece stands in the outermost loop that the collective belongs to.
                pieces[channel[1]] = one if before is None or one.times < before.times else before
            else:
                found.append(one)
    return Traffic(found + list(pieces.values()), unknown)


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():  # a kernel's own text may hold lines of any kind, so only headers and ops are read
        head = _COMPUTATION.match(line)
        if head:
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif current is not None:
            op = _parse_op(line)
            if op:
                current[op.name] = op
    if not entry:
        raise ValueError("no HLO module: there is no ENTRY computation")
    return computations, entry


def _parse_op(line: str) -> _Op | None:
    head = _INSTRUCTION.match(line)
    if not head:
        return None
    start = head.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.find(" ", start)
    opens = line.find("(", end)
    closes = _closing(line, opens)
    inner = line[opens + 1 : closes]
    return _Op(
        head[2],
        line[start:end],
        line[end:opens].strip(),
        tuple(_NAME.findall(inner)),
        inner,
        line[closes + 1 :],
        bool(head[1]),
    )


def _closing(line: str, opens: int) -> int:
    depth = 0
    for i in range(opens, len(line)):
        depth += {"(": 1, ")": -1}.get(line[i], 0)
        if depth == 0:
            return i
    return len(line)


def _visits(computations: dict[str, _Computation], entry: str, unknown: list[str]) -> dict[str, tuple[int, bool]]:
    """How often each computation runs, and whether beside others: in a fusion, or between a start and a done.

    Every branch of a conditional is counted.
    """
    visits: dict[str, tuple[int, bool]] = {}

    def visit(name: str, times: int, fused: bool) -> None:
        before = visits.get(name, (0, fused))
        visits[name] = (before[0] + times, fused)
        for op in computations[name].values():
            turns = 1
            if op.opcode == "while":
                turns = trip_count(op, computations, computations[name]) or 0
                if not turns:
                    unknown.append(op.name)
                    turns = 1
            if op.opcode in ("async-done", "async-update"):
                continue  # they name again what their start has begun
            for callee in _called(op):
                if callee in computations:
                    visit(callee, times * turns, fused or op.opcode in ("fusion", "async-start"))

    visit(entry, 1, False)
    return visits


def _called(op: _Op) -> Iterator[str]:
    for match in _CALLED.finditer(op.attrs):
        rest = op.attrs[match.end() :]
        yield from _NAME.findall(
            rest[: rest.find("}")] if rest.startswith("{") else re.split(r"[,\s]", rest, maxsplit=1)[0]
        )


def trip_count(loop: _Op, computations: dict[str, _Computation], around: _Computation) -> int | None:
    """How often a while turns: as the compiler noted, or from `counter < constant`, its start and its step."""
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attrs)
    if noted:
        return int(noted[1])
    called = dict(re.findall(r"(condition|body)=%?([\w.\-]+)", loop.attrs))
    condition, body = (computations.get(called.get(part, "")) for part in ("condition", "body"))
    if not condition or not body:
        return None
    test = next(op for op in condition.values() if op.root)
    compare = next((op for op in (test, *condition.values()) if op.opcode == "compare"), None)
    if compare is None or len(compare.operands) != 2:
        return None
    counter, bound = (_origin(condition, name) for name in compare.operands)
    index, end = _tuple_index(counter), _constant(bound)
    if index is None or end is None or "direction=LT" not in compare.attrs:
        return None
    first = _constant(_element(around, loop.operands[0], index))
    update = _element(body, next(op.name for op in body.values() if op.root), index)
    step = None
    if update is not None and update.opcode == "add":
        step = next((c for c in (_constant(_origin(body, name)) for name in update.operands) if c is not None), None)
    # A loop whose counter is set up out of sight begins at 0 and takes every number: so are all that JAX writes.
    return math.ceil((end - (first or 0)) / (step or 1))


def _origin(computation: _Computation, name: str) -> _Op | None:
    """The instruction that a value comes from, past those that only move it."""
    op = computation.get(name)
    while op is not None and op.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start") and op.operands:
        op = computation.get(op.operands[0])
    return op


def _element(computation: _Computation, name: str, index: int) -> _Op | None:
    made = _origin(computation, name)
    if made is None or made.opcode != "tuple" or index >= len(made.operands):
        return None
    return _origin(computation, made.operands[index])


def _tuple_index(op: _Op | None) -> int | None:
    found = re.search(r"index=(\d+)", op.attrs) if op is not None and op.opcode == "get-tuple-element" else None
    return int(found[1]) if found else None


def _constant(op: _Op | None) -> int | None:
    if op is None or op.opcode != "constant" or not re.fullmatch(r"-?\d+", op.text):
        return None
    return int(op.text)


def _shapes(text: str) -> list[Shape]:
    return [Shape(dtype, tuple(ints(dims))) for dtype, dims in _SHAPE.findall(text)]


def _between_slices(op: _Op, computation: _Computation, times: int) -> Collective:
    """The TPU compiler hands these to the host, as a send of each device's share and a receive."""
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', op.attrs)
    shape = _shapes(computation[op.operands[0]].result)[0]
    return Collective(
        kind=kind[1].lower().replace("_", "-") if kind else "send",
        payload=shape.bytes,
        times=times,
        groups=np.zeros((1, 1), int),
        dims=shape.dims,
        overlapped=True,
        where=(re.search(r'_xla_host_transfer_rendezvous="([^"]*)"', op.attrs) or ["", ""])[1],
        dcn=True,
    )


def _collective(
    op: _Op, kind: str, computation: _Computation, times: int, devices: int, computation_name: str, fused: bool
) -> Collective:
    groups = parse_groups(op.attrs, devices)
    operands = [s for name in op.operands if name in computation for s in _shapes(computation[name].result)]
    taken = sum(shape.bytes for shape in operands)
    largest = max(_shapes(op.result), key=lambda shape: shape.bytes)
    if fused and kind == "all-reduce" and computation_name.startswith(_SCATTER):
        kind = "reduce-scatter"  # the TPU compiler writes it as a sum of which a fusion keeps a slice
    return Collective(
        kind=kind,
        payload=taken * (groups.shape[1] if kind == "all-gather" else 1),
        times=times,
        groups=groups,
        dims=largest.dims,
        overlapped=fused or op.opcode.endswith("-start"),
        where=(re.search(r'op_name="([^"]*)"', op.attrs) or ["", ""])[1],
    )
