"""`load_pretrained` reads weights of every kind, `inspect` what they are; `convert` writes them as any other kind.

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

import jax
from jax.sharding import Mesh

from igpt_jax.errors import InputError
from igpt_jax.files import local_path
from igpt_jax.model import abstract_params
from igpt_jax.model.inputs import check_mesh
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import usable_mesh
from igpt_jax.parallel.processes import raise_on_all
from igpt_jax.pretrained import Pretrained, load_workdir, require_finite, save_pretrained, workdir_checkpoints
from igpt_jax.sampling.draft import load_draft
from igpt_jax.training.checkpoint import CHECKPOINTS
from igpt_jax.training.step import make_model
from igpt_jax.weights.huggingface import fetch_snapshot, open_huggingface, write_huggingface
from igpt_jax.weights.openai import open_openai, write_openai
from igpt_jax.weights.table import Opened, config_of, read_params
from igpt_jax.weights.weight_files import refuse_pickles

Format = Literal["workdir", "openai", "huggingface"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def load_pretrained(
    path: str | Path,
    *,
    step: int | None = None,
    palette: str | Path | None = None,
    grid: tuple[int, ...] | None = None,
    mesh: Mesh | None = None,
    allow_nonfinite: bool = False,
) -> Pretrained:
    """Loads weights of any kind: `loaded.model.apply({'params': loaded.params}, tokens_BT)` gives logits.

    Args:
      path: a workdir of `igpt train`; a checkpoint prefix of OpenAI's, one of its files, or a directory with one
        checkpoint; a Hugging Face directory; or owner/name or owner/name@revision on the Hub.
      step: which checkpoint of a workdir; None takes the newest.
      palette: a .npy of colours, instead of those that come with the weights.
      grid: rows and columns, for weights from elsewhere that do not say it and are not square.
      mesh: where the parameters go, split as `parallel.mesh` says; None places them whole on the first device. It may
        be a mesh of one's own (`usable_mesh`); that of the arrays then has the axes data, fsdp and tensor.
    """
    if mesh is not None:
        check_mesh(least=1)  # arrays of one kind of axes cannot be used under the other
        mesh = usable_mesh(mesh)
    with jax.set_mesh(None):  # the caller's may have other devices, or axes of another type
        with raise_on_all():
            colors = None if palette is None else Palette.load(local_path(palette, "palette"))
            kind, where, name = _find(path, step, grid)
        if kind == "workdir":
            loaded = load_workdir(where, step, mesh, allow_nonfinite)
            if colors is not None:
                config_of("", loaded.model.cfg, colors, str(path))  # checks the palette
                loaded = replace(loaded, palette=colors)
            return replace(loaded, draft=load_draft(where, loaded.model.cfg))
        with raise_on_all():
            opened = _open(kind, where, colors, grid, name)
            loaded = replace(opened.shapes, params=read_params(opened, mesh))
        if not allow_nonfinite:
            require_finite(loaded.params, str(path))
        return replace(loaded, draft=load_draft(draft_directory(where), loaded.model.cfg))


def draft_directory(where: Path) -> Path:
    """Where the network that guesses colours lies: in the directory of the weights."""
    return where if where.is_dir() else where.parent


def inspect(path: str | Path, *, step: int | None = None, grid: tuple[int, ...] | None = None) -> Pretrained:
    """What `load_pretrained` gives, with jax.ShapeDtypeStruct in place of the parameters: no weights are read, but a
    name on the Hub is downloaded."""
    with raise_on_all():
        kind, where, name = _find(path, step, grid)
    if kind == "workdir":
        meta = workdir_checkpoints(where, step)[0]
        more = meta.palette, meta.config, meta.step, meta.data, meta.class_names, meta.class_counts
        return Pretrained(make_model(meta.config), abstract_params(meta.config.model), *more)
    with raise_on_all():
        return _open(kind, where, None, grid, name).shapes


def _open(kind: Format, where: Path, palette: Palette | None, grid: tuple[int, ...] | None, name: str | None) -> Opened:
    return open_openai(where, palette, grid) if kind == "openai" else open_huggingface(where, palette, grid, name)


def _find(path: str | Path, step: int | None, grid: tuple[int, ...] | None) -> tuple[Format, Path, str | None]:
    """The kind of the weights, the path to read them from, and their name if they are from the Hub."""
    kind, where = _kind(path)
    if kind == "workdir" and grid is not None:
        raise InputError(f"{path}: a workdir knows its grid; leave --grid out")
    if kind != "workdir" and step is not None:
        raise InputError(f"{path}: --step chooses a checkpoint of a workdir, which this is not; leave it out")
    if kind == "hub":
        return "huggingface", fetch_snapshot(str(path)), Path(str(path).partition("@")[0]).name
    return kind, where, None


def _kind(source: str | Path) -> tuple[Literal["workdir", "openai", "huggingface", "hub"], Path]:
    path = local_path(source, "weights")
    if path.is_dir():
        if (path / CHECKPOINTS).is_dir():
            return "workdir", path
        if (path / "config.json").exists():
            return "huggingface", path
        prefixes = [p.with_suffix("") for p in sorted(path.glob("*.index"))]
        if len(prefixes) > 1:
            raise InputError(f"{path}: holds several checkpoints; name one of {', '.join(map(str, prefixes))}")
        if prefixes:
            return "openai", prefixes[0]
        refuse_pickles(path.iterdir())
    else:
        for prefix in (path, path.with_suffix("")):  # or one of its files
            if Path(f"{prefix}.index").exists():
                return "openai", prefix
        if path.exists():
            refuse_pickles([path])
        elif _HUB_NAME.fullmatch(str(source)):
            return "hub", path
    raise InputError(
        f"{path}: {'no weights are there' if path.exists() else 'no such file or directory'}; name a workdir of "
        "igpt train, a TensorFlow checkpoint (PATH.index exists), a Hugging Face directory (config.json and "
        "model.safetensors), or OWNER/NAME on the Hugging Face Hub"
    )


_WRITERS: dict[str, Callable[[Pretrained, Path], Path | None]] = {
    "workdir": save_pretrained,
    "openai": write_openai,
    "huggingface": write_huggingface,
}


def check_new(out: str | Path) -> Path:
    """The path `out`; InputError unless it is missing or an empty directory."""
    out = local_path(out, "--out")
    try:
        empty = not any(out.iterdir()) if out.is_dir() else not (out.exists() or out.is_symlink())
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; name a new or empty directory") from None
    if not empty:
        raise InputError(f"--out {out}: holds something already; name a new or empty directory")
    return out


def convert(source: Pretrained, to: Format, out: str | Path) -> Path:
    """Writes weights in another format. Returns the path to load them from: `out`, or OpenAI's prefix in it.

    There and back, parameters and palette are the same bit for bit, but biases that are all zero are dropped, and only
    a workdir holds the names of the classes. `out` appears complete or not at all; a process that is killed leaves
    .OUT.<pid>.partial beside it.
    """
    if to not in _WRITERS:
        raise InputError(f"format: must be one of {', '.join(_WRITERS)}; got {to!r}")
    out = check_new(out)
    try:
        complete = out.resolve()
        partial = complete.with_name(f".{complete.name}.{os.getpid()}.partial")
        try:
            written = _WRITERS[to](source, partial) or partial
            partial.rename(complete)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror or error}; name a directory that can be written") from None
    return out / written.relative_to(partial)
