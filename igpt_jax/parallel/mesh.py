"""Where arrays live: the device mesh, the rules from dim names to mesh axes, and the way from the host to devices.

The model never mentions a device. `AXES` names what each dim of a parameter is, and `RULES` says which mesh axis splits
a dim of that name. Gradients, moments and averages have the parameters' paths, so the same rules place them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from igpt_jax.config import BATCH_AXES, MeshConfig
from igpt_jax.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])

MESH_AXES = (*BATCH_AXES, "tensor")
"""The axes of a mesh."""

RULES: dict[str, str | None] = {
    "layer": None,
    "position": None,
    "frame": None,
    "patch": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "norm": None,
    "heads": "tensor",
    "head": None,
    "mlp": "tensor",
    "class": None,
}
"""Dim name -> the mesh axis that splits it, or None."""


def make_mesh(cfg: MeshConfig = MeshConfig(), devices: list[Any] | None = None) -> Mesh:  # noqa: B008 (frozen)
    """A mesh (data, fsdp, tensor) over all devices, with neighbours in fsdp and tensor close to each other.

    By default all devices split the batch. With TPUs of several slices, only the data axis crosses between slices (the
    slow network). An axis may split a side of a TPU's torus.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [cfg.data, cfg.fsdp, cfg.tensor]
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // -math.prod(sizes)
    if math.prod(sizes) != len(devices):
        raise InputError(
            f"mesh: data {cfg.data} x fsdp {cfg.fsdp} x tensor {cfg.tensor} does not fit {len(devices)} devices; "
            "-1 takes what is left"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"})
    if slices > 1:
        if sizes[0] % slices:
            raise InputError(f"mesh.data: {sizes[0]} does not divide over {slices} slices; make it a multiple")
        within = (sizes[0] // slices, *sizes[1:])
        grid = mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, allow_split_physical_axes=True)
    else:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def usable_mesh(mesh: Mesh) -> Mesh:
    """Any mesh as this package uses it: the same devices, the axes data, fsdp and tensor, all of type Auto.

    `jax.make_mesh` makes axes of type Explicit unless told otherwise, with which the model cannot be traced. Axes that
    are missing are added with size 1; a mesh that has all this is returned as it is.
    """
    if unknown := [str(axis) for axis in mesh.axis_names if axis not in MESH_AXES]:
        raise InputError(
            f"mesh: no use for the axis {', '.join(unknown)}; axes are called {', '.join(MESH_AXES)}, and "
            "igpt_jax.make_mesh makes such a mesh"
        )
    missing = tuple(axis for axis in MESH_AXES if axis not in mesh.axis_names)
    if not missing and set(mesh.axis_types) == {AxisType.Auto}:
        return mesh
    devices = mesh.devices.reshape(mesh.devices.shape + (1,) * len(missing))
    return Mesh(devices, mesh.axis_names + missing, axis_types=(AxisType.Auto,) * 3)


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as 'h/attn/q_proj/w'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def axes_of(name: str, shape: tuple[int, ...], axes: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The dim names of the array at a path: those of the one row with which it ends. A scalar needs no row."""
    rows = [row for row in axes if name == row or name.endswith("/" + row)]
    if not rows and not shape:
        return ()
    if len(rows) != 1:
        raise ValueError(f"{name} of shape {shape} matches {rows or 'no row'}; the table must have exactly one for it")
    dims = axes[rows[0]]
    if len(dims) != len(shape):
        raise ValueError(f"{name} has shape {shape}, but its row {rows[0]} names the dims {dims}")
    return dims


def shardings(tree: Any, mesh: Mesh, axes: Mapping[str, tuple[str, ...]]) -> Any:
    """A NamedSharding for every array of a tree of (abstract) arrays. InputError names all dims that do not divide."""
    misfits: dict[str, None] = {}  # a set that keeps its order

    def one(path: tuple[Any, ...], x: Any) -> NamedSharding:
        dims = axes_of(path_name(path), x.shape, axes)
        spec = [RULES[dim] for dim in dims]
        for size, dim, axis in zip(x.shape, dims, spec, strict=True):
            if axis is not None and size % mesh.shape[axis]:
                misfits[f"{dim} = {size} over {axis} = {mesh.shape[axis]}"] = None
        return NamedSharding(mesh, P(*spec))

    tree_of_shardings = jax.tree.map_with_path(one, tree)
    if misfits:
        raise InputError(f"mesh: these dims do not divide: {'; '.join(misfits)}; choose other mesh sizes")
    return tree_of_shardings


def with_shardings(tree: Any, mesh: Mesh | None, axes: Mapping[str, tuple[str, ...]]) -> Any:
    """Shapes, types and shardings of a tree of (abstract) arrays: on the mesh, or without one whole on one device."""
    if mesh is None:
        device = SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)
    places = shardings(tree, mesh, axes)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places)


def bytes_at_one_device(tree: Any) -> int:
    """Bytes that one device holds of a tree of abstract arrays with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def traced_on(mesh: Mesh | None, function: F) -> F:
    """The function, traced with the mesh around it: attention kernels and hooks look there for the devices."""
    if mesh is None:
        return function
    return _within(lambda: jax.sharding.use_abstract_mesh(mesh.abstract_mesh), function)


def outside_mesh(function: F) -> F:
    """The function, run outside of any mesh that its caller has set: its programs have meshes of their own."""
    return _within(lambda: jax.set_mesh(None), function)


def _within(context: Callable[[], Any], function: F) -> F:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    return wrapped  # pyright: ignore[reportReturnType]


def axes_around() -> dict[str, int]:
    """The mesh axes over which XLA splits the program that is being traced, and their sizes; none on one device."""
    mesh = jax.sharding.get_abstract_mesh()
    types = zip(mesh.shape.items(), mesh.axis_types, strict=True)
    return {axis: size for (axis, size), kind in types if kind == AxisType.Auto and mesh.size > 1}


def all_gather_fsdp(params: Any, axes: Mapping[str, tuple[str, ...]]) -> Any:
    """The parameters with what fsdp splits whole on every device; what tensor splits stays split.

    For programs that read the weights many times, such as decoding: they are sent once then, and not for every slot.
    Call it while tracing, inside `traced_on`. On one device it changes nothing.
    """
    if not (sizes := axes_around()):
        return params

    def one(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        split = [RULES[dim] for dim in axes_of(path_name(path), x.shape, axes)]
        kept = P(*(axis if axis in sizes and axis != "fsdp" else None for axis in split))
        return jax.lax.with_sharding_constraint(x, kept)

    return jax.tree.map_with_path(one, params)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dim of a batch, its images, is split over data and fsdp."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device, so that every process can read it."""
    return NamedSharding(mesh, P())


def batch_ways(mesh: Mesh) -> int:
    """How many parts a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_splits(batch_size: int, microbatches: int, mesh: Mesh) -> None:
    """Raises InputError if the images of a microbatch do not split evenly over the mesh."""
    images, ways = batch_size // microbatches, batch_ways(mesh)
    if images % ways:
        raise InputError(
            f"data.batch_size: {images} images at once do not split over {ways} devices (mesh data x fsdp)"
        )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """int [R]: the rows of a global batch that this process's devices hold, ascending.

    Processes whose devices differ only in the tensor axis hold the same rows.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    spans = {index[0].indices(batch_size)[:2] for index in indices if index is not None}
    return np.concatenate([np.arange(*span) for span in sorted(spans)])


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays of which this process passes its `local_rows`: {name: [R, ...]} -> {name: [B, ...]}."""
    ways = batch_ways(mesh)
    size = len(next(iter(batch.values()))) * ways // len(local_rows(mesh, ways))
    rows = local_rows(mesh, size)

    def put(x: np.ndarray) -> jax.Array:
        def of_one_device(index: Any) -> np.ndarray:
            first = np.searchsorted(rows, index[0].start or 0)
            return x[first : first + size // ways]

        return jax.make_array_from_callback((size, *x.shape[1:]), batch_sharding(mesh), of_one_device)

    return {name: put(x) for name, x in batch.items()}


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh of `make_mesh` that the arrays of a tree lie on; None if they lie on one device, or on the host."""
    sharding = getattr(jax.tree.leaves(tree)[0], "sharding", None)
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return None
    if usable_mesh(sharding.mesh) is not sharding.mesh:
        raise InputError(
            "mesh: the weights lie on a mesh that has not the axes data, fsdp and tensor, of type Auto; load them with "
            "load_pretrained(..., mesh=mesh), or place them on a mesh of igpt_jax.make_mesh"
        )
    return sharding.mesh


def shard_batch(x: np.ndarray, mesh: Mesh | None) -> Any:
    """An array that every process has whole, split over the mesh like a batch; without a mesh, unchanged."""
    return x if mesh is None else jax.make_array_from_callback(x.shape, batch_sharding(mesh), x.__getitem__)


def to_host(x: jax.Array) -> np.ndarray:
    """The whole array on every process, wherever its parts lie."""
    return np.asarray(x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True))
