"""The weight files of a Hugging Face directory: one .safetensors file, or several with an index.

The library safetensors reads and writes them, and checks what a file says about itself. Pickles are never opened.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.config_json import json_text
from igpt_jax.errors import InputError, first_line
from igpt_jax.weights.table import Shape, Tensors, in_groups, reading

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
INSTEAD_OF_PICKLES = (
    f"take a revision that has {WEIGHTS} (on the Hub: NAME@REVISION), or, if you trust the file, load it with "
    "transformers and save_pretrained it again"
)


def refuse_pickles(paths: Iterable[Path]) -> None:
    """Raises InputError if one of the files is a pickle."""
    for path in sorted(path for path in paths if path.suffix in PICKLES):
        why = "is a pickle, which can run code when it is opened, so it is not read"
        raise InputError(f"{path}: {why}; {INSTEAD_OF_PICKLES}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    with reading(path, "save_pretrained of transformers writes such a file"):
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds {type(values).__name__}, not an object")
        return values


def open_weights(directory: Path, ignored: re.Pattern[str]) -> Tensors:
    """The tensors of a directory whose names are not ignored: all shapes and types at once, values one by one."""
    shapes: dict[str, Shape] = {}
    types: dict[str, str] = {}
    files: dict[str, Path] = {}
    for file in _weight_files(directory):
        with _open(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                if ignored.fullmatch(name):
                    continue
                if name in files:
                    raise InputError(f"{file}: holds {name}, and so does {files[name].name}; keep one")
                view = tensors.get_slice(name)
                shapes[name], types[name], files[name] = tuple(view.get_shape()), view.get_dtype(), file

    def read(name: str) -> np.ndarray:
        # Open the file each time: pages that were read of a mapped file count as our memory until it is closed.
        with _open(files[name]) as tensors:
            return tensors.get_tensor(name)

    return Tensors(shapes, types, read)


def _weight_files(directory: Path) -> list[Path]:
    if (directory / WEIGHTS).exists():
        return [directory / WEIGHTS]
    if (directory / INDEX).exists():
        names = read_json(directory / INDEX).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
            raise InputError(f"{directory / INDEX}: has no weight_map of tensors to files beside it; write it again")
        return [directory / name for name in sorted(set(names.values()))]
    refuse_pickles(directory.iterdir())
    raise InputError(f"{directory}: holds neither {WEIGHTS} nor {INDEX}; a directory of save_pretrained has one")


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Any]:
    import ml_dtypes  # noqa: F401 (registers bfloat16 with numpy)
    from safetensors import safe_open

    with (
        reading(file, "it is no whole safetensors file; download or write it again"),
        safe_open(file, "numpy") as tensors,
    ):
        yield tensors


def write_weights(
    directory: Path, shapes: Mapping[str, Shape], tensors: Iterator[tuple[str, np.ndarray]], max_shard_bytes: int
) -> None:
    """Writes float32 tensors, in the order of `shapes`, to one file, or to several with an index. One file's tensors
    are in memory at a time; it is larger than max_shard_bytes if a single tensor is."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    groups, files = in_groups(shapes, max_shard_bytes), [WEIGHTS]
    if len(groups) > 1:
        files = [f"model-{k:05d}-of-{len(groups):05d}.safetensors" for k in range(1, len(groups) + 1)]
        total = sum(4 * math.prod(shape) for shape in shapes.values())
        weight_map = {name: file for file, names in zip(files, groups) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json_text(index), encoding="utf-8")
    for file, names in zip(files, groups):
        try:
            save_file(dict(itertools.islice(tensors, len(names))), directory / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{file}: {first_line(error, 150)}") from None
