"""The weight files of a Hugging Face directory: one .safetensors or several with an index, read and written.

Reading goes through the library safetensors, which checks what a file says of itself. Pickles are never opened.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from igpt_jax.config import InputError
from igpt_jax.interop.table import Shape
from igpt_jax.validation import first_line

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
INSTEAD_OF_PICKLES = (
    f"take a revision that has {WEIGHTS} (on the Hub: NAME@REVISION), or, where you trust the file, load it with "
    "transformers and save_pretrained it again"
)


def refuse_pickle(path: Path) -> NoReturn:
    """Raises InputError that says why, and what to do."""
    raise InputError(
        f"{path}: is a pickle, which can run code when it is opened, so it is not read; {INSTEAD_OF_PICKLES}"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      InputError: no such file, or it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; a directory of transformers' save_pretrained has it") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({str(error)[:100]})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds {type(found).__name__}, not an object")
    return found


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """What `read_json` reads."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class Tensors:
    """Shapes and types of all tensors of a directory, and their values one by one.

    Attributes:
      shapes, types: by name; a type is as safetensors writes it, F32 for float32.

    Raises:
      InputError: there are no weights, or pickles alone; a file is damaged; two hold the same tensor.
    """

    def __init__(self, directory: Path, ignored: re.Pattern[str]) -> None:
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        for file in _weight_files(directory):
            with _open(file) as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    if ignored.fullmatch(name):
                        continue
                    if name in self._files:
                        raise InputError(f"{file}: holds {name}, and so does {self._files[name].name}; keep one")
                    view = opened.get_slice(name)
                    self.shapes[name], self.types[name] = tuple(view.get_shape()), view.get_dtype()
                    self._files[name] = file

    def read(self, name: str) -> np.ndarray:
        """The tensor, of its own type; InputError when the file is damaged."""
        # The file is opened anew each time: what has been read of a mapped file counts as memory until it is closed.
        with _open(self._files[name]) as opened:
            return opened.get_tensor(name)


def _weight_files(directory: Path) -> list[Path]:
    if (directory / WEIGHTS).exists():
        return [directory / WEIGHTS]
    if (directory / INDEX).exists():
        names = read_json(directory / INDEX).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
            raise InputError(f"{directory / INDEX}: has no weight_map of tensors to files beside it; write it again")
        return [directory / name for name in sorted(set(names.values()))]
    for path in sorted(directory.iterdir()):
        if path.suffix in PICKLES:
            refuse_pickle(path)
    raise InputError(f"{directory}: holds neither {WEIGHTS} nor {INDEX}; a directory of save_pretrained has one")


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Any]:
    """An open safetensors file; whatever the library makes of a damaged one becomes one line that names it."""
    import ml_dtypes  # noqa: F401 (numpy then knows bfloat16)
    from safetensors import safe_open

    try:
        with safe_open(file, "numpy") as opened:
            yield opened
    except InputError:
        raise
    except Exception as error:
        why = first_line(error, 150)
        raise InputError(f"{file}: cannot be read as safetensors ({why}); fetch or write it again") from None


def write_weights(
    directory: Path, shapes: Mapping[str, Shape], tensors: Iterator[tuple[str, np.ndarray]], max_shard_bytes: int
) -> None:
    """Writes float32 tensors, one in memory at a time, as one file or as several with an index.

    Args:
      shapes: of all tensors, in the order in which `tensors` yields them.
      max_shard_bytes: of one file, unless a single tensor is larger.
    """
    size = {name: 4 * int(np.prod(shape)) for name, shape in shapes.items()}
    shards: list[list[str]] = [[]]
    for name in shapes:
        if shards[-1] and sum(size[n] for n in shards[-1]) + size[name] > max_shard_bytes:
            shards.append([])
        shards[-1].append(name)
    files = [WEIGHTS]
    if len(shards) > 1:
        files = [f"model-{k:05d}-of-{len(shards):05d}.safetensors" for k in range(1, len(shards) + 1)]
        where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_json(directory / INDEX, {"metadata": {"total_size": sum(size.values())}, "weight_map": where})
    for file, names in zip(files, shards, strict=True):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            begin, end = end, end + size[name]
            header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format asks for aligned data
        with open(directory / file, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                written, tensor = next(tensors)
                assert written == name
                out.write(tensor.astype("<f4", copy=False).data)
