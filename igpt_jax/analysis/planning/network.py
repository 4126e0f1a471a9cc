"""How long the collectives of a program take at least on the networks of a target, and what slows it down."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jax.sharding import Mesh

from igpt_jax.analysis.chips import Chip
from igpt_jax.analysis.planning.hlo import Collective, axes_crossed
from igpt_jax.config import ModelConfig
from igpt_jax.tpu_flags import OVERLAP


@dataclass(frozen=True)
class TrafficRow:
    """The collectives of one kind over the same mesh axes."""

    kind: str
    axes: tuple[str, ...]
    dcn: bool
    """Whether it crosses from slice to slice."""
    count: int = 0
    """Executions per step."""
    payload: int = 0
    """Bytes per step at one device: the results of all-gathers, the arguments of others."""
    waited_for: int = 0
    """The part of the payload that overlaps with no other work."""
    seconds: float = 0.0
    """Lower bound, at the chip's published rate over the links that the group can use."""
    waited_seconds: float = 0.0
    """The part of the seconds that overlaps with no other work."""


def summarize(collectives: list[Collective], mesh: Mesh, chip: Chip) -> tuple[TrafficRow, ...]:
    """One row for each kind and set of axes, the longest time first."""
    rows: dict[tuple, TrafficRow] = {}
    for one in collectives:
        groups = mesh_groups(one, mesh)
        key = one.kind, axes_crossed(groups, mesh.shape), one.dcn
        if not key[1]:
            continue
        payload, seconds = one.payload * one.times, lower_bound(one, groups, mesh, chip) * one.times
        before = rows.get(key, TrafficRow(*key))
        rows[key] = replace(
            before,
            count=before.count + one.times,
            payload=before.payload + payload,
            waited_for=before.waited_for + payload * (not one.overlapped),
            seconds=before.seconds + seconds,
            waited_seconds=before.waited_seconds + seconds * (not one.overlapped),
        )
    return tuple(sorted(rows.values(), key=lambda row: -row.seconds))


@functools.cache
def places(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Of each device: int [D], its slice, and int [D, dims], its coordinates in the slice's torus."""
    devices = list(enumerate(mesh.devices.flat))
    slices = [getattr(device, "slice_index", 0) or 0 for _, device in devices]
    return np.array(slices), np.array([getattr(device, "coords", (i,)) for i, device in devices])


def mesh_groups(one: Collective, mesh: Mesh) -> np.ndarray:
    """int [G, g]: the groups of a collective as positions in the mesh. A program numbers the devices of one slice."""
    slices, _ = places(mesh)
    if one.dcn:
        return np.unique(slices, return_index=True)[1][None]
    return np.flatnonzero(slices == slices[0])[one.groups]


def lower_bound(one: Collective, groups: np.ndarray, mesh: Mesh, chip: Chip) -> float:
    """Seconds that one execution takes at least.

    What leaves a device uses its links in the dimensions of the torus that its group spans. GPUs use all their links.
    """
    ways = groups.shape[1]
    share = 1.0 if one.kind in ("collective-permute", "collective-broadcast") else (ways - 1) / ways
    sent = one.payload * share * (2 if one.kind == "all-reduce" else 1)
    if one.dcn:
        return sent / chip.dcn_rate
    if chip.is_gpu:
        return sent / chip.ici_rate
    coords = places(mesh)[1][groups]
    spanned = int((coords != coords[:, :1]).any(axis=(0, 1)).sum())
    return sent / (chip.ici_rate * max(1, min(spanned, chip.torus)) / chip.torus)


def warnings(collectives: list[Collective], unknown_loops: list[str], model: ModelConfig, mesh: Mesh) -> Iterator[str]:
    """What slows the program down, one line each."""
    gathers = [one for one in collectives if one.kind == "all-gather"]
    for one in gathers:
        if len(one.dims) > 2 and one.dims[0] == model.n_layer > 1:
            how = "overlapped with other work" if one.overlapped else "while the device waits"
            axes = " and ".join(axes_crossed(mesh_groups(one, mesh), mesh.shape))
            yield f"gathers the weights {list(one.dims)} of all layers over {axes} at once, {how}: {one.where}"
    repeated = [(one.payload * one.times, one.overlapped) for one in gathers if one.times > 1]
    payload, waited_for = sum(n for n, _ in repeated), sum(n for n, overlapped in repeated if not overlapped)
    if mesh.devices.flat[0].platform == "tpu" and waited_for > payload / 2:
        share = f"{waited_for / payload:.0%} of the all-gathers"
        yield f"the device waits for {share}; where libtpu takes them, LIBTPU_INIT_ARGS='{OVERLAP}' may help"
    if unknown_loops:
        yield f"the number of iterations of {len(unknown_loops)} loops is unknown; their collectives are counted once"
