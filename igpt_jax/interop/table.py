"""The tables' machinery: which tensor of another format is which of our parameters, read and written by one row.

A format is a tuple of `Row`; `check` compares names and shapes, `read_params` goes one way and `write_tensors` the
other. Both stream, so that memory stays at the weights themselves and one tensor. Files are left to the formats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from igpt_jax.config import Config, DataConfig, InputError, ModelConfig
from igpt_jax.model.decoder import AXES, ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import placed
from igpt_jax.training.pretrained import abstract_params

Params = Any
Shape = tuple[int, ...]

_LAYER = re.compile(r"(?<=/h)\d+(?=/)|(?<=\.h\.)\d+(?=\.)")
_SHOWN = 40  # groups of names in one complaint


@dataclass(frozen=True)
class Row:
    """One tensor of another format, or one for every layer, and the parameters that it holds."""

    theirs: str
    """Its name, with {i} where there is one for every layer."""
    dims: str
    """Its shape in the decoder's dims, for example "D 3D"."""
    ours: tuple[str, ...]
    """Paths of our parameters; those under h are stacked over layers, and the row speaks of one layer."""
    split: Callable[[np.ndarray, ModelConfig], Sequence[np.ndarray]] = lambda x, cfg: (x,)
    """Their tensor -> ours, views where possible."""
    join: Callable[[Sequence[np.ndarray], ModelConfig], np.ndarray] = lambda xs, cfg: xs[0]
    """Ours -> their tensor."""
    when: Callable[[ModelConfig], bool] = lambda cfg: True
    """Which models have it."""

    def names(self, cfg: ModelConfig) -> list[tuple[int | None, str]]:
        """(layer, name) of each of its tensors; the layer is None for one that stands alone."""
        if "{i}" not in self.theirs:
            return [(None, self.theirs)]
        return [(i, self.theirs.format(i=i)) for i in range(cfg.n_layer)]

    def shape(self, cfg: ModelConfig) -> Shape:
        """Its shape in a model of that configuration."""
        d, v = cfg.d_model, cfg.vocab_size
        size = {"T": cfg.n_ctx, "V": v, "V+1": v + 1, "D": d, "3D": 3 * d, "4D": 4 * d}
        size |= {"H": cfg.n_head, "K": cfg.head_dim, "C": cfg.clf_classes}
        return tuple(size[dim] for dim in self.dims.split())


def expected(rows: Iterable[Row], cfg: ModelConfig) -> dict[str, Shape]:
    """Name -> shape of every tensor that a model of that configuration has, in the order of `write_tensors`."""
    return {name: row.shape(cfg) for row in rows if row.when(cfg) for _, name in row.names(cfg)}


def check(wanted: Mapping[str, Shape], found: Mapping[str, Shape], origin: str) -> None:
    """Raises InputError naming all missing, superfluous and mis-shaped tensors at once."""
    complaints = []
    if missing := [name for name in wanted if name not in found]:
        complaints.append(f"missing {listed(missing)}")
    if extra := [name for name in found if name not in wanted]:
        complaints.append(f"not part of the model {listed(extra)}")
    wrong: dict[tuple[Shape, Shape], list[str]] = {}
    for name, shape in found.items():
        if shape != wanted.get(name, shape):
            wrong.setdefault((shape, wanted[name]), []).append(name)
    complaints += [f"{listed(names)} has shape {list(a)}, not {list(b)}" for (a, b), names in wrong.items()]
    if complaints:
        raise InputError(f"{origin}: does not hold the weights of one Image GPT: {'; '.join(complaints)}")


def listed(names: Iterable[str]) -> str:
    """Names in one line; those that differ only in the layer's number become one, as model/h{0..23}/ln_1/g."""
    layers: dict[str, list[int]] = {}
    for name in names:
        printable = "".join(c if c.isprintable() else "?" for c in name)
        number = _LAYER.search(printable)
        key = printable if number is None else f"{printable[: number.start()]}\0{printable[number.end() :]}"
        layers.setdefault(key, []).extend([] if number is None else [int(number[0])])
    shown = [key.replace("\0", _ranges(sorted(numbers))) for key, numbers in layers.items()]
    more = len(shown) - _SHOWN
    return ", ".join(shown[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> {0..2,5}; [5] -> 5."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return "{" + ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs) + "}"


def check_types(types: Mapping[str, str], allowed: Sequence[str], origin: str) -> None:
    """Raises InputError naming the tensors (name -> type) whose type is not one of those that float32 holds exactly."""
    wrong: dict[str, list[str]] = {}
    for name, kind in types.items():
        if kind not in allowed:
            wrong.setdefault(kind, []).append(name)
    if wrong:
        what = "; ".join(f"{listed(names)} is {kind}" for kind, names in wrong.items())
        raise InputError(f"{origin}: {what}; weights must be {', '.join(allowed)}")


def square_grid(n_ctx: int, grid: tuple[int, ...] | None, origin: str) -> tuple[int, ...]:
    """The grid given, or the square of n_ctx tokens.

    Raises:
      InputError: the grid given has another number of tokens; or none is given, and n_ctx is no square.
    """
    if grid is not None:
        if math.prod(grid) != n_ctx:
            raise InputError(f"{origin}: has {n_ctx} positions, and the grid {times(grid)} has {math.prod(grid)}")
        return tuple(grid)
    side = math.isqrt(n_ctx)
    if side * side != n_ctx:
        raise InputError(f"{origin}: has {n_ctx} positions, which is no square; say how many rows and columns (--grid)")
    return (side, side)


def times(grid: Iterable[int]) -> str:
    """(8, 8) -> '8 x 8'."""
    return " x ".join(map(str, grid))


def config_of(name: str, cfg: ModelConfig, palette: Palette | None, origin: str) -> Config:
    """The configuration of weights from elsewhere: name, model, objective and the pictures' channels are known.

    Raises:
      InputError: the palette has another number of colours than the model.
    """
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


def read_params(
    rows: Iterable[Row], model: ImageGPT, read: Callable[[str], np.ndarray], mesh: Mesh | None = None
) -> Params:
    """The parameter tree, float32, read tensor by tensor; names and shapes have been checked.

    On CPU the arrays are the very buffers that were filled; elsewhere one stacked parameter at a time is in host
    memory.

    Args:
      rows: the format's table, without the rows that this model does not have.
      read: name -> the tensor, float32, float16 or bfloat16 of the shape in the table.
      mesh: where the parameters go, as `parallel.mesh` places them; by default to the first device.
    """
    wanted, leaves = flat(placed(abstract_params(model), mesh, AXES)), {}
    for row in rows:
        if not row.when(model.cfg):
            continue
        buffers = [_aligned(wanted[path].shape) for path in row.ours]
        for i, name in row.names(model.cfg):
            for buffer, part in zip(buffers, row.split(read(name), model.cfg), strict=True):
                buffer[... if i is None else i] = part
        for path in row.ours:
            buffer = buffers.pop(0)
            array = jax.make_array_from_callback(buffer.shape, wanted[path].sharding, buffer.__getitem__)
            leaves[path] = jax.block_until_ready(array)  # so that no second buffer is filled meanwhile
    return unflatten_dict(leaves, sep="/")


def _aligned(shape: Shape) -> np.ndarray:
    """An uninitialised float32 array where XLA for CPU wants one, so that it need not copy it."""
    size = math.prod(shape) * 4
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)


def write_tensors(rows: Iterable[Row], cfg: ModelConfig, params: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 array) of every tensor, one at a time; `params` is flat."""
    for row in rows:
        if not row.when(cfg):
            continue
        for i, name in row.names(cfg):
            # a layer is taken on the device: as a whole the parameter would stay in host memory, too
            ours = [np.asarray(params[path] if i is None else params[path][i]) for path in row.ours]
            yield name, np.ascontiguousarray(row.join(ours, cfg), np.float32)
