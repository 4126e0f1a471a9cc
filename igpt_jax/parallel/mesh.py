"""Where arrays live: the device mesh, the table from dim names to mesh axes, and the host-to-device door.

The maths never mentions a device. The decoder names what each dim of a parameter is; `RULES` says which mesh axis
splits a dim of that name; everything shaped like the parameters (gradients, moments, averages) follows by path.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from igpt_jax.config import BATCH_AXES, InputError, MeshConfig

F = TypeVar("F", bound=Callable[..., Any])

AXIS_NAMES = ("data", "fsdp", "tensor")

RULES: dict[str, str | None] = {
    "layer": None,
    "position": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "norm": None,
    "heads": "tensor",
    "head": None,
    "mlp": "tensor",
    "class": None,
}
"""Dim name -> the mesh axis that splits it, or None."""


def make_mesh(cfg: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """A mesh (data, fsdp, tensor) over all devices, neighbours in fsdp and tensor as near to each other as can be.

    Where TPUs of several slices take part, only the data axis crosses between slices (the slow network). An axis need
    not be a product of the sides of a TPU's torus: sides are split where they must be.

    Raises:
      InputError: the sizes do not multiply to the number of devices, or data does not divide over the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [cfg.data, cfg.fsdp, cfg.tensor]
    named = int(np.prod([n for n in sizes if n != -1]))
    if -1 in sizes and len(devices) % named == 0:
        sizes[sizes.index(-1)] = len(devices) // named
    if int(np.prod(sizes)) != len(devices):
        raise InputError(
            f"mesh: data x fsdp x tensor = {cfg} does not fit {len(devices)} devices; -1 takes what is left"
        )
    auto = (jax.sharding.AxisType.Auto,) * 3
    slices = len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"})
    if slices > 1:
        if sizes[0] % slices:
            raise InputError(f"mesh.data: {sizes[0]} does not divide over {slices} slices; make it a multiple")
        within = (sizes[0] // slices, *sizes[1:])
        placed = mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, allow_split_physical_axes=True)
    else:
        placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXIS_NAMES, axis_types=auto)


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as 'h/attn/q_proj/w'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def axes_of(name: str, shape: tuple[int, ...], axes: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The dim names of the array at a path: those of the row whose name ends the path.

    Arrays that no row matches must be scalars (step counts and the like).

    Raises:
      ValueError: no row for an array of rank > 0, several rows, or another rank than the row's.
    """
    rows = [row for row in axes if name == row or name.endswith("/" + row)]
    if not rows and not shape:
        return ()
    if len(rows) != 1:
        raise ValueError(f"{name} of shape {shape} matches {rows or 'no row'}; the table must have exactly one for it")
    dims = axes[rows[0]]
    if len(dims) != len(shape):
        raise ValueError(f"{name} has shape {shape}, but its row {rows[0]} names the dims {dims}")
    return dims


def shardings(
    tree: Any, mesh: Mesh, axes: Mapping[str, tuple[str, ...]], rules: Mapping[str, str | None] = RULES
) -> Any:
    """A NamedSharding for every array of a tree of (abstract) arrays.

    Raises:
      InputError: some dims are not divisible by their mesh axis; all of them are named at once.
      ValueError: an array that the table does not describe.
    """
    misfits: list[str] = []

    def one(path: tuple[Any, ...], x: Any) -> NamedSharding:
        name = path_name(path)
        dims = axes_of(name, x.shape, axes)
        spec = [rules[dim] for dim in dims]
        for size, dim, axis in zip(x.shape, dims, spec, strict=True):
            if axis is not None and size % mesh.shape[axis]:
                misfits.append(f"{dim} = {size} over {axis} = {mesh.shape[axis]}")
        used = [axis for axis in spec if axis is not None]
        if len(used) != len(set(used)):
            raise ValueError(f"{name}: dims {dims} put one mesh axis twice")
        return NamedSharding(mesh, P(*spec))

    found = jax.tree.map_with_path(one, tree)
    if misfits:
        raise InputError(
            f"mesh: these dims do not divide: {'; '.join(dict.fromkeys(misfits))}; choose other mesh sizes"
        )
    return found


def placed(tree: Any, mesh: Mesh | None, axes: Mapping[str, tuple[str, ...]]) -> Any:
    """The shapes and types of a tree of (abstract) arrays with their places: on the mesh, or whole on one device.

    Raises:
      InputError, ValueError: as `shardings` does.
    """
    if mesh is None:
        here = SingleDeviceSharding(jax.local_devices()[0])
        places = jax.tree.map(lambda _: here, tree)
    else:
        places = shardings(tree, mesh, axes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, places)


def traced_on(mesh: Mesh | None, function: F) -> F:
    """The function with the mesh around it while it is traced, where kernels that XLA cannot split look for it."""
    if mesh is None:
        return function

    @functools.wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return inside  # pyright: ignore[reportReturnType]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split over data and fsdp on their first dim."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device, whole; so every process can read it."""
    return NamedSharding(mesh, P())


def batch_ways(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_splits(batch_size: int, microbatches: int, mesh: Mesh) -> None:
    """Raises InputError when the images at once do not split evenly over the mesh."""
    images, ways = batch_size // microbatches, batch_ways(mesh)
    if images % ways:
        raise InputError(
            f"train.batch_size: {images} images at once do not split over {ways} devices (mesh data x fsdp)"
        )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """int [R]: which rows of a global batch this process's devices hold, ascending.

    Processes whose devices differ in the tensor axis alone hold the same rows.
    """
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    spans = {index[0].indices(batch_size)[:2] for index in held.values() if index is not None}
    return np.concatenate([np.arange(*span) for span in sorted(spans)])


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The only way data gets onto the devices: `local_rows` of a batch become this process's part of global arrays."""
    sharding = batch_sharding(mesh)
    size, first = _local_of(mesh, len(next(iter(batch.values()))))

    def put(x: np.ndarray) -> jax.Array:
        def cut(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            return x[first[start] : first[start] + stop - start]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, cut)

    return {name: put(x) for name, x in batch.items()}


@functools.cache
def _local_of(mesh: Mesh, n: int) -> tuple[int, dict[int, int]]:
    """The size of a global batch of which this process holds n rows, and which of the n each of its rows is."""
    ways = batch_ways(mesh)
    size = n * ways // len(local_rows(mesh, ways))
    return size, {row: i for i, row in enumerate(local_rows(mesh, size).tolist())}


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that the arrays of a tree lie on; None when they lie on one device, or on the host."""
    sharding = getattr(jax.tree.leaves(tree)[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) else None


def put_whole(x: np.ndarray, mesh: Mesh | None) -> Any:
    """An array that every process has whole, split over the mesh as a batch is; as it is where there is no mesh."""
    return x if mesh is None else jax.make_array_from_callback(x.shape, batch_sharding(mesh), x.__getitem__)


def fetch_whole(x: jax.Array) -> np.ndarray:
    """An array that lies anywhere, whole on every process."""
    return np.asarray(x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True))
