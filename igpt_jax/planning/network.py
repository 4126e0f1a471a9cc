"""Which networks a program's collectives cross, and the least time they take there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import ModelConfig
from igpt_jax.planning.chips import Chip
from igpt_jax.planning.groups import axes_crossed
from igpt_jax.planning.hlo import Collective

OVERLAP = " ".join(
    f"--xla_{flag}=true"
    for flag in (
        "tpu_enable_async_collective_fusion",
        "tpu_enable_async_collective_fusion_fuse_all_gather",
        "tpu_enable_async_collective_fusion_multiple_steps",
        "tpu_overlap_compute_collective_tc",
        "enable_async_all_gather",
    )
)
"""With these in LIBTPU_INIT_ARGS the TPU compiler gathers weights beside other work where it otherwise would not."""


@dataclass(frozen=True)
class Row:
    """The collectives of one kind over the same mesh axes."""

    kind: str
    axes: tuple[str, ...]
    dcn: bool
    """Whether it crosses from slice to slice."""
    count: int
    """Executions a step."""
    payload: int
    """Bytes a step at one device: what all-gathers yield, what others take in."""
    waited_for: int
    """The part of them that nothing can run beside."""
    seconds: float
    """At the chip's published rate over the links it can use."""
    waited_seconds: float
    """Of what is waited for."""


def summary(collectives: list[Collective], mesh: Mesh, chip: Chip) -> Iterator[Row]:
    """One row for each kind and set of axes, the longest first."""
    where = _Places(mesh)
    rows: dict[tuple, Row] = {}
    for one in collectives:
        axes = where.axes(one)
        if not axes:
            continue
        payload, seconds = one.payload * one.times, where.seconds(one, chip) * one.times
        key = (one.kind, axes, one.dcn)
        before = rows.get(key, Row(*key, 0, 0, 0, 0.0, 0.0))
        rows[key] = replace(
            before,
            count=before.count + one.times,
            payload=before.payload + payload,
            waited_for=before.waited_for + (0 if one.overlapped else payload),
            seconds=before.seconds + seconds,
            waited_seconds=before.waited_seconds + (0.0 if one.overlapped else seconds),
        )
    yield from sorted(rows.values(), key=lambda row: -row.seconds)


class _Places:
    """Where the devices of a mesh stand: in which slice, and where in its torus."""

    def __init__(self, mesh: Mesh) -> None:
        devices = list(mesh.devices.flat)
        slices = np.array([getattr(d, "slice_index", 0) or 0 for d in devices])
        self._mesh = dict(mesh.shape)
        self._coords = np.array([getattr(d, "coords", (i,)) for i, d in enumerate(devices)])
        self._partitions = np.flatnonzero(slices == slices[0])  # a program's partitions are those of one slice
        self._slices = len(np.unique(slices))
        same_place = np.unique(slices, return_index=True)[1][None]
        self._slice_axes = axes_crossed(same_place, self._mesh)

    def axes(self, one: Collective) -> tuple[str, ...]:
        """The mesh axes that a collective crosses."""
        return self._slice_axes if one.dcn else axes_crossed(self._partitions[one.groups], self._mesh)

    def seconds(self, one: Collective, chip: Chip) -> float:
        """A floor of one execution's time.

        What must leave a device does so over its links in those dimensions of the torus that its group spans.
        """
        ways = self._slices if one.dcn else one.ways
        share = 1.0 if one.kind in ("collective-permute", "collective-broadcast") else (ways - 1) / ways
        leaves = one.payload * share * (2 if one.kind == "all-reduce" else 1)
        if one.dcn:
            return leaves / chip.dcn_rate
        places = self._coords[self._partitions[one.groups]]
        spanned = int((places != places[:, :1]).any(axis=(0, 1)).sum())
        return leaves / (chip.ici_rate * max(1, min(spanned, chip.torus)) / chip.torus)


def findings(collectives: list[Collective], unknown: list[str], model: ModelConfig, mesh: Mesh) -> Iterator[str]:
    """What a reader should look at."""
    for one in collectives:
        whole = len(one.dims) > 2 and one.dims[0] == model.n_layer > 1
        if one.kind == "all-gather" and whole:
            how = "beside other work" if one.overlapped else "with nothing beside it"
            axes = " and ".join(_Places(mesh).axes(one))
            yield f"gathers a whole stack of layers {list(one.dims)} over {axes} at once, {how}: {one.where}"
    gathers = [one for one in collectives if one.kind == "all-gather" and one.times > 1]
    payload = sum(one.payload * one.times for one in gathers)
    waited_for = sum(one.payload * one.times for one in gathers if not one.overlapped)
    if mesh.devices.flat[0].platform == "tpu" and waited_for > payload / 2:
        share = f"{waited_for / payload:.0%} of the all-gathers"
        yield f"nothing runs beside {share}; LIBTPU_INIT_ARGS='{OVERLAP}' may help"
    if unknown:
        yield f"{len(unknown)} loops do not say how often they turn; what is sent in them is counted once"
