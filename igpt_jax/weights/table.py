"""Tables that say which tensor of another format is which of our parameters, for reading and for writing.

A format is a tuple of `Row`. `check` compares names, shapes and types, `read_params` reads and `write_tensors` writes.
Both go tensor by tensor, so that memory holds the weights once and one tensor more.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from igpt_jax.config import Config, DataConfig, ModelConfig
from igpt_jax.errors import InputError, first_line
from igpt_jax.model import AXES, abstract_params, mlp_width
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import with_shardings
from igpt_jax.pretrained import Pretrained

Params = Any
Shape = tuple[int, ...]

_LISTED = 20  # names in one part of a message
# In the words of TensorFlow and of safetensors. float32 holds their values exactly.
_TYPES = ("float32", "float16", "bfloat16", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Row:
    """One tensor of another format, or one tensor per layer, and the parameters that it holds."""

    theirs: str
    """Its name, with {i} for the layer."""
    dims: str
    """Its shape in dimensions of the decoder, for example "D 3D"."""
    ours: tuple[str, ...]
    """Paths of our parameters. Those under h are stacked over layers; the row describes one layer."""
    split: Callable[[np.ndarray, ModelConfig], Sequence[np.ndarray]] = lambda x, cfg: (x,)
    """Their tensor -> ours; views where possible."""
    join: Callable[[Sequence[np.ndarray], ModelConfig], np.ndarray] = lambda xs, cfg: xs[0]
    """Ours -> their tensor."""
    when: Callable[[ModelConfig], bool] = lambda cfg: True
    """Which models have it."""

    def names(self, cfg: ModelConfig) -> list[tuple[int | None, str]]:
        """(layer, name) of each of its tensors in this model; the layer is None if there is only one."""
        layers = range(cfg.n_layer) if "{i}" in self.theirs else [None]
        return [(i, self.theirs.format(i=i)) for i in layers if self.when(cfg)]

    def shape(self, cfg: ModelConfig) -> Shape:
        d, v = cfg.d_model, cfg.vocab_size
        sizes = {"T": cfg.n_ctx, "V": v, "V+1": v + 1, "D": d, "3D": 3 * d, "F": mlp_width(cfg)}
        sizes |= {"H": cfg.n_head, "K": cfg.head_dim, "C": cfg.clf_classes}
        return tuple(sizes[dim] for dim in self.dims.split())


@dataclass(frozen=True)
class Tensors:
    """The tensors of some files."""

    shapes: Mapping[str, Shape]
    types: Mapping[str, str]
    read: Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Opened:
    """Weights of another format, of which only shapes are read yet."""

    shapes: Pretrained
    rows: Sequence[Row]
    read: Callable[[str], np.ndarray]


@contextlib.contextmanager
def reading(path: Any, remedy: str) -> Iterator[None]:
    """Turns any error, as damaged and hostile files cause in libraries, into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "Cannot allocate memory" in str(error):
            raise MemoryError(f"{path}: {first_line(error, 150)}") from None
        raise InputError(f"{path}: cannot be read ({first_line(error, 150)}); {remedy}") from None


def expected(rows: Iterable[Row], cfg: ModelConfig) -> dict[str, Shape]:
    """Name -> shape of every tensor of a model, in the order of `write_tensors`."""
    return {name: row.shape(cfg) for row in rows for _, name in row.names(cfg)}


def without_place(rows: Iterable[Row], params: Mapping[str, Any]) -> list[str]:
    """Paths of the parameters (flat) that the format does not hold, whatever the configuration."""
    placed = {path for row in rows for path in row.ours}
    return [path for path in params if path not in placed]


def variants(cfg: ModelConfig) -> list[str]:
    """The settings that compute something else than the release, with parameters of their own or without."""
    chosen = {name: getattr(cfg, name) for name in ("positions", "mlp")}
    return [f"model.{name} {value!r}" for name, value in chosen.items() if value != getattr(ModelConfig, name)]


def check(rows: Iterable[Row], cfg: ModelConfig, tensors: Tensors, origin: str) -> None:
    """InputError names all missing, extra, mis-shaped and mistyped tensors at once."""
    wanted, shapes = expected(rows, cfg), tensors.shapes
    misshaped = [name for name, shape in shapes.items() if shape != wanted.get(name, shape)]
    faults = {
        "missing ": [name for name in wanted if name not in shapes],
        "not part of the model ": [name for name in shapes if name not in wanted],
        "": [f"{name} has shape {list(shapes[name])}, not {list(wanted[name])}" for name in misshaped],
        "not float32, float16 or bfloat16: ": [f"{k} is {v}" for k, v in tensors.types.items() if v not in _TYPES],
    }
    if any(faults.values()):
        parts = "; ".join(words + listed(names) for words, names in faults.items() if names)
        raise InputError(f"{origin}: does not hold the weights of one Image GPT: {parts}")


def listed(names: Sequence[str]) -> str:
    """At most 20 names in one line, with control characters escaped."""
    more = len(names) - _LISTED
    return ", ".join(repr(name)[1:-1] for name in names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def times(grid: Iterable[Any]) -> str:
    """(8, 8) -> '8 x 8'."""
    return " x ".join(map(str, grid))


def model_of(n_ctx: int, grid: tuple[Any, ...] | None, origin: str, **fields: Any) -> ModelConfig:
    """The configuration of a model with n_ctx positions; without `grid` they are a square."""
    grid = grid or (math.isqrt(n_ctx), math.isqrt(n_ctx))
    if not all(type(n) is int for n in grid) or math.prod(grid) != n_ctx:
        raise InputError(f"{origin}: {n_ctx} positions are not {times(grid)}; say how many rows and columns (--grid)")
    try:
        return ModelConfig(grid=grid, **fields)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def config_of(name: str, cfg: ModelConfig, palette: Palette | None, origin: str) -> Config:
    """The configuration of weights from elsewhere; what they do not say is at its default."""
    if palette is not None and palette.size != cfg.vocab_size:
        raise InputError(
            f"{origin}: the model was made for {cfg.vocab_size} colours, and the palette has {palette.size}; name the "
            ".npy that it was trained with (--palette)"
        )
    return Config(
        name=name,
        objective="joint" if cfg.clf_classes else "ar" if cfg.causal else "bert",
        model=cfg,
        data=DataConfig(channels=1 if palette is not None and palette.channels == 1 else 3),
    )


def flat(params: Params) -> dict[str, Any]:
    """{'h/attn/q_proj/w': array, ...}."""
    return flatten_dict(params, sep="/")


def read_params(opened: Opened, mesh: Mesh | None = None) -> Params:
    """The parameter tree, float32. On CPU the arrays use the very buffers that are filled here, without a copy;
    elsewhere, one stacked parameter at a time is in host memory."""
    cfg, leaves = opened.shapes.model.cfg, {}
    wanted = flat(with_shardings(abstract_params(cfg), mesh, AXES))
    for row in (row for row in opened.rows if row.when(cfg)):
        buffers = [_aligned(wanted[path].shape) for path in row.ours]
        for i, name in row.names(cfg):
            for buffer, part in zip(buffers, row.split(opened.read(name), cfg), strict=True):
                buffer[... if i is None else i] = part
        for path in row.ours:
            buffer = buffers.pop(0)
            array = jax.make_array_from_callback(buffer.shape, wanted[path].sharding, buffer.__getitem__)
            leaves[path] = jax.block_until_ready(array)  # so that the host never holds two buffers
    return unflatten_dict(leaves, sep="/")


def _aligned(shape: Shape) -> np.ndarray:
    """An uninitialised float32 array, aligned so that XLA for CPU can use it without a copy."""
    size = math.prod(shape) * 4
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)


def write_tensors(rows: Iterable[Row], cfg: ModelConfig, params: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 array) of every tensor, one at a time; `params` is flat."""
    for row in rows:
        for i, name in row.names(cfg):
            # index on the device, so that host memory never holds all layers
            ours = [np.asarray(params[path] if i is None else params[path][i]) for path in row.ours]
            yield name, np.ascontiguousarray(row.join(ours, cfg), np.float32)


def in_groups(shapes: Mapping[str, Shape], max_bytes: int) -> list[list[str]]:
    """Names of float32 tensors in order, in groups of at most that size, unless a single tensor is larger."""
    groups, size = [[]], 0
    for name, shape in shapes.items():
        size += 4 * math.prod(shape)
        if groups[-1] and size > max_bytes:
            groups.append([])
            size = 4 * math.prod(shape)
        groups[-1].append(name)
    return groups
