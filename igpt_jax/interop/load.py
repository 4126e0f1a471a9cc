"""One door for weights of every kind, and the way from any kind to any other.

Kinds: a workdir of `igpt train`, a checkpoint of OpenAI's, a Hugging Face directory, a name on the Hugging Face Hub.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from jax.sharding import Mesh

from igpt_jax.config import InputError
from igpt_jax.interop.huggingface import fetch_snapshot, read_huggingface, write_huggingface
from igpt_jax.interop.openai import read_openai, write_openai
from igpt_jax.interop.table import config_of
from igpt_jax.interop.weight_files import PICKLES, refuse_pickle
from igpt_jax.palette import Palette
from igpt_jax.parallel.multihost import together
from igpt_jax.training.checkpoint import CHECKPOINTS
from igpt_jax.training.pretrained import Pretrained, load_workdir, save_pretrained

Format = Literal["workdir", "openai", "huggingface"]

_TENSORFLOW_FILE = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def load_pretrained(
    path: str | Path,
    *,
    step: int | None = None,
    palette: str | Path | None = None,
    grid: tuple[int, ...] | None = None,
    mesh: Mesh | None = None,
) -> Pretrained:
    """Loads weights, wherever they come from: `found.model.apply({'params': found.params}, tokens_BT)` gives logits.

    Args:
      path: a workdir of `igpt train`; a checkpoint prefix of OpenAI's, one of its files, or a directory with one
        checkpoint; a Hugging Face directory; or owner/name or owner/name@revision on the Hub.
      step: which checkpoint of a workdir; by default the newest.
      palette: a .npy of colours, instead of those that come with the weights.
      grid: rows and columns of weights from elsewhere that do not say it and are not square.
      mesh: where the parameters go, split as `parallel.mesh` says; by default to the first device, whole.

    Returns:
      The model, its float32 parameters, and the palette if there is one.

    Raises:
      InputError: nothing of these kinds is there, it is damaged or not one Image GPT, an argument does not apply to its
        kind, or the palette has another number of colours than the model.
    """
    with together():
        kind, where = _find(path)
    if kind == "workdir":
        if grid is not None:
            raise InputError(f"{path}: a workdir knows its grid; leave --grid out")
        found = load_workdir(where, step, mesh)
        if palette is not None:
            found = replace(found, palette=Palette.load(palette))
            config_of("", found.model.cfg, found.palette, str(path))  # its check of the palette
        return found
    if step is not None:
        raise InputError(f"{path}: --step chooses a checkpoint of a workdir, which this is not; leave it out")
    with together():
        colors = None if palette is None else Palette.load(palette)
        if kind == "openai":
            return read_openai(where, palette=colors, grid=grid, mesh=mesh)
        name = None
        if kind == "hub":
            where, name = fetch_snapshot(str(path)), Path(str(path).partition("@")[0]).name
        return read_huggingface(where, palette=colors, grid=grid, mesh=mesh, name=name)


def _find(given: str | Path) -> tuple[Literal["workdir", "openai", "huggingface", "hub"], Path]:
    """What kind of weights that is, and the path to read them from."""
    path = Path(given)
    if path.is_dir():
        if (path / CHECKPOINTS).is_dir():
            return "workdir", path
        if (path / "config.json").exists():
            return "huggingface", path
        prefixes = [p.with_suffix("") for p in sorted(path.glob("*.index"))]
        if len(prefixes) == 1:
            return "openai", prefixes[0]
        if prefixes:
            raise InputError(f"{path}: holds several checkpoints; name one of {', '.join(map(str, prefixes))}")
        for file in sorted(path.iterdir()):
            if file.suffix in PICKLES:
                refuse_pickle(file)
    elif Path(f"{path}.index").exists():
        return "openai", path
    elif path.exists():
        if _TENSORFLOW_FILE.search(path.name):
            return "openai", path.with_suffix("")
        if path.suffix in PICKLES:
            refuse_pickle(path)
    elif _HUB_NAME.fullmatch(str(given)):
        return "hub", path
    raise InputError(
        f"{path}: {'no weights are there' if path.exists() else 'no such file or directory'}; wanted is a workdir of "
        "igpt train, a TensorFlow checkpoint (PATH.index exists), a Hugging Face directory (config.json and "
        "model.safetensors), or OWNER/NAME on the Hugging Face Hub"
    )


def _write_workdir(found: Pretrained, directory: Path) -> Path:
    save_pretrained(found, directory)
    return directory


_WRITERS: dict[str, Callable[[Pretrained, Path], Path]] = {
    "workdir": _write_workdir,
    "openai": write_openai,
    "huggingface": write_huggingface,
}


def check_new(out: Path) -> None:
    """Raises InputError where something is already, or nobody may look."""
    try:
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"--out {out}: holds something already; name a new or empty directory")
        if not out.is_dir() and (out.is_symlink() or out.exists()):
            raise InputError(f"--out {out}: is a file; name a new or empty directory")
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; name a new or empty directory") from None


def convert(source: Pretrained, to: Format, out: str | Path) -> Path:
    """Writes weights in another format. There and back, parameters and palette are the same bit for bit.

    Biases that are all zero are the one exception: they are dropped on the way.

    `out` appears whole or not at all; a process that is killed leaves .OUT.<pid>.partial beside it.

    Returns:
      What to load them from: `out`, or for OpenAI's format the checkpoint's prefix in it.

    Raises:
      InputError: `out` holds something already or cannot be written, or the format has no place for the model.
    """
    if to not in _WRITERS:
        raise InputError(f"format {to!r}: there are {', '.join(_WRITERS)}")
    out = Path(out)
    check_new(out)
    try:
        whole = out.resolve()
        partial = whole.with_name(f".{whole.name}.{os.getpid()}.partial")
        try:
            written = _WRITERS[to](source, partial)
            partial.rename(whole)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror or error}; name a directory that can be written") from None
    return out / written.relative_to(partial)
