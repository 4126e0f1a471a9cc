"""What a compiled program sends between its devices, read from its HLO text.

A collective is counted once, whether it is one instruction, a start and a done, or cut into pieces that are parts of
other fusions; and once for every iteration of the loops around it. Its groups say which network it crosses.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from igpt_jax.analysis.planning.groups import ints, parse_groups

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute", "collective-broadcast")

_SHAPE = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
    r"(?:calls|body|true_computation|false_computation|called_computations|branch_computations)=(\{[^}]*\}|[^,\s]*)"
)
_TO_APPLY = re.compile(r"to_apply=([^,\s]*)")
# A fusion of this name is never cut into pieces. A loop and an iteration peeled off it share its channel.
_SCATTER = "all-reduce-scatter"


class Shape(NamedTuple):
    """An array's element type and dims."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Without the padding of a device's tiles."""
        bits = re.search(r"\d+", self.dtype)
        width = int(bits[0]) / 8 if bits else int(self.dtype == "pred")  # tokens and the like have no bytes
        return math.ceil(math.prod(self.dims) * width)


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
    name: str
    result: str
    opcode: str
    inner: str
    """What the parentheses hold: the operands, or the value of a constant."""
    attrs: str
    root: bool

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.inner)


_Computation = dict[str, _Op]


def traffic(text: str, devices: int) -> tuple[list[Collective], list[str]]:
    """The collectives in the text of an optimised HLO module, and the loops of unknown length (counted as one).

    Args:
      text: of a module, as `compiled.as_text()` gives it.
      devices: how many a slice has; the program numbers those of one slice.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry = _parse(text)
    visits, unknown_loops = _visits(computations, entry)
    collectives: list[Collective] = []
    pieces: dict[str, Collective] = {}  # collectives inside fusions, by channel: several pieces are one
    for name, (times, fused) in visits.items():
        for op in computations[name].values():
            one = _collective(op, name, computations[name], times, fused, devices)
            if one is None:
                continue
            channel = _attribute(r"channel_id=(\d+)", op)
            if fused and channel and not name.startswith(_SCATTER):
                # The piece that runs least often is in the outermost loop, where the collective itself belongs.
                pieces[channel] = min(pieces.get(channel, one), one, key=lambda piece: piece.times)
            else:
                collectives.append(one)
    return [*collectives, *pieces.values()], unknown_loops


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():  # the text of a kernel has lines of any kind; only headers and instructions count
        if head := _COMPUTATION.match(line):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif current is not None and (head := _INSTRUCTION.match(line)):
            root, name, result, opcode = head.groups()
            closes = _closing(line, head.end() - 1)
            current[name] = _Op(name, result, opcode, line[head.end() : closes], line[closes + 1 :], bool(root))
    if not entry:
        raise ValueError("no HLO module: there is no ENTRY computation")
    return computations, entry


def _closing(line: str, opens: int) -> int:
    depth = 0
    for i in range(opens, len(line)):
        depth += {"(": 1, ")": -1}.get(line[i], 0)
        if depth == 0:
            return i
    return len(line)


def _visits(computations: dict[str, _Computation], entry: str) -> tuple[dict[str, tuple[int, bool]], list[str]]:
    """How often each computation runs, and whether it overlaps with others: in a fusion, or with a start and a done.

    Also the names of the loops whose number of iterations is unknown. All branches of a conditional are counted.
    """
    visits: dict[str, tuple[int, bool]] = {}
    unknown_loops: list[str] = []

    def visit(name: str, times: int, fused: bool) -> None:
        visits[name] = (visits.get(name, (0, fused))[0] + times, fused)
        for op in computations[name].values():
            iterations = trip_count(op, computations, computations[name]) if op.opcode == "while" else 1
            if not iterations:
                unknown_loops.append(op.name)
            if op.opcode in ("async-done", "async-update"):
                continue  # they name the same computation as their start
            for callee in filter(computations.get, _callees(op)):
                visit(callee, times * (iterations or 1), fused or op.opcode in ("fusion", "async-start", "call-start"))

    visit(entry, 1, False)
    return visits, unknown_loops


def _callees(op: _Op) -> list[str]:
    """The computations that an instruction runs, without those that it applies to pairs of elements, as a sum does."""
    called = _CALLED.findall(op.attrs)
    if op.opcode in ("call", "call-start"):  # the TPU compiler starts collectives on the sparse cores so
        called += _TO_APPLY.findall(op.attrs)
    return _NAME.findall(" ".join(called))


def trip_count(loop: _Op, computations: dict[str, _Computation], around: _Computation) -> int | None:
    """Iterations of a while loop: the compiler's note, or from `counter < constant`, its start and its step."""
    note = _attribute(r'"known_trip_count":\{"n":"(\d+)"\}', loop)
    if note:
        return int(note)
    condition, body = (computations[_attribute(rf"{part}=%?([\w.\-]+)", loop)] for part in ("condition", "body"))
    compare = next((op for op in reversed(condition.values()) if op.opcode == "compare"), None)
    if compare is None or "direction=LT" not in compare.attrs:
        return None
    counter, bound = (_origin(condition, name) for name in compare.operands)
    index, end = _attribute(r"\bindex=(\d+)", counter), _constant(bound)
    if not index or end is None:
        return None
    start = _constant(_element(around, loop.operands[0], int(index)))
    update = _element(body, next(op.name for op in body.values() if op.root), int(index))
    added = update.operands if update and update.opcode == "add" else []
    steps = filter(None, (_constant(_origin(body, name)) for name in added))
    # If start or step is not in sight, they are 0 and 1, as in every loop that JAX writes.
    return math.ceil((end - (start or 0)) / next(steps, 1))


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


def _constant(op: _Op | None) -> int | None:
    return int(op.inner) if op and op.opcode == "constant" and re.fullmatch(r"-?\d+", op.inner) else None


def _attribute(pattern: str, op: _Op) -> str:
    """What the group of a pattern matches in an instruction's attributes; empty without a match."""
    match = re.search(pattern, op.attrs)
    return match[1] if match else ""


def _shapes(text: str) -> list[Shape]:
    return [Shape(dtype, tuple(ints(dims))) for dtype, dims in _SHAPE.findall(text)]


def _collective(
    op: _Op, name: str, computation: _Computation, times: int, fused: bool, devices: int
) -> Collective | None:
    """The collective that an instruction of the computation `name` is, if it is one."""
    kind = op.opcode.removesuffix("-start")
    # The TPU compiler gives what goes between slices to the host: each device sends its share and receives the result.
    dcn = kind == "send" and "megascale" in op.attrs
    if dcn:
        kind = _attribute(r'_xla_megascale_transfer_type="(\w+)"', op).lower().replace("_", "-") or kind
    elif kind not in KINDS:
        return None
    elif fused and kind == "all-reduce" and name.startswith(_SCATTER):
        kind = "reduce-scatter"  # the TPU compiler writes it as a fusion of an all-reduce and a slice
    groups = np.zeros((1, 1), int) if dcn else parse_groups(op.attrs, devices)
    size = sum(shape.bytes for operand in op.operands for shape in _shapes(computation[operand].result))
    return Collective(
        kind=kind,
        payload=size * (groups.shape[1] if kind == "all-gather" else 1),
        times=times,
        groups=groups,
        dims=max(_shapes(op.result), key=lambda shape: shape.bytes).dims,
        overlapped=dcn or fused or op.opcode.endswith("-start"),
        where=_attribute(r'(?:op_name|_xla_host_transfer_rendezvous)="([^"]*)"', op),
        dcn=dcn,
    )
