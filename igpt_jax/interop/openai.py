"""OpenAI's checkpoints: TensorFlow 1 variables as `src/model.py` of the release names them, read and written.

Everything about the model is read off the shapes. TensorFlow is needed, for its reader and writer alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import InputError, ModelConfig
from igpt_jax.interop.fetch import PALETTE
from igpt_jax.interop.table import (
    Row,
    Shape,
    check,
    check_types,
    config_of,
    expected,
    flat,
    listed,
    read_params,
    square_grid,
    times,
    write_tensors,
)
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.training.pretrained import Pretrained
from igpt_jax.validation import first_line

ROWS = (
    Row("model/wpe", "T D", ("wpe",)),
    Row("model/wte", "V D", ("wte",)),
    Row("model/wtet", "V D", ("wtet",)),
    Row("model/sos", "D", ("sos",), when=lambda cfg: cfg.causal),
    Row("model/clf/wclf", "C D", ("clf",), when=lambda cfg: cfg.clf_classes > 0),
    Row("model/h{i}/ln_1/g", "D", ("h/ln_1/g",)),
    Row("model/h{i}/attn/q_proj", "H K D", ("h/attn/q_proj/w",)),
    Row("model/h{i}/attn/k_proj", "H K D", ("h/attn/k_proj/w",)),
    Row("model/h{i}/attn/v_proj", "H K D", ("h/attn/v_proj/w",)),
    Row("model/h{i}/attn/c_proj", "H K D", ("h/attn/c_proj/w",)),
    Row("model/h{i}/ln_2/g", "D", ("h/ln_2/g",)),
    Row("model/h{i}/mlp/c_fc/w", "D 4D", ("h/mlp/c_fc/w",)),
    Row("model/h{i}/mlp/c_proj/w", "4D D", ("h/mlp/c_proj/w",)),
    Row("model/ln_f/g", "D", ("ln_f/g",)),
)
"""`src/model.py` of the release; BERT models have no sos."""

# Optimizer slots and counters stand beside the weights.
_BOOKKEEPING = re.compile(r"(^|/)(adam_[mv]|Adam\w*|beta[12]_power\w*|global_step|_step)(/|$)")
_TYPES = ("float32", "float16", "bfloat16")
_SHARD_BYTES = 1 << 28


def read_openai(
    prefix: str | Path,
    *,
    palette: Palette | None = None,
    grid: tuple[int, ...] | None = None,
    mesh: Mesh | None = None,
) -> Pretrained:
    """Reads a checkpoint PREFIX.index with its data shards, as the release's Saver wrote them.

    Optimizer slots and counters are left aside. Without `model/sos` it is a BERT model.

    Args:
      prefix: the files' name up to .index; the step is the number that it ends in, as in model.ckpt-131000.
      palette: by default `kmeans_centers.npy` beside the checkpoint, where there is one.
      grid: rows and columns; needed where the number of positions is no square.
      mesh: where the parameters go; by default to the first device.

    Raises:
      InputError: TensorFlow is not installed, the files are damaged, or hold other tensors than one Image GPT.
    """
    prefix = Path(prefix)
    tf = _tensorflow()
    with _damage_named(prefix):
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
        types = {name: dtype.name for name, dtype in reader.get_variable_to_dtype_map().items()}
    shapes = {name: shapes[name] for name in sorted(shapes) if not _BOOKKEEPING.search(name)}
    cfg = _infer(shapes, grid, str(prefix))
    check(expected(ROWS, cfg), shapes, str(prefix))
    check_types({name: types[name] for name in shapes}, _TYPES, str(prefix))
    beside = prefix.parent / PALETTE
    if palette is None and beside.exists():
        palette = Palette.load(beside)
    config = config_of(prefix.absolute().parent.name, cfg, palette, str(prefix))
    model = ImageGPT(cfg)
    with _damage_named(prefix):
        params = read_params(ROWS, model, lambda name: _read(reader, name), mesh)
    step = re.search(r"-(\d+)$", prefix.name)
    return Pretrained(model, params, palette, config, int(step[1]) if step else None)


def _read(reader: Any, name: str) -> np.ndarray:
    # glibc keeps what TensorFlow frees, for iGPT-M 0.3 times the weights, unless it is told to give it back.
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    return reader.get_tensor(name)


def _infer(shapes: Mapping[str, Shape], grid: tuple[int, ...] | None, origin: str) -> ModelConfig:
    """The model that most of the tensors agree on, so that the others can be named."""
    dims = {row.theirs: row.dims.split() for row in ROWS}
    votes: dict[str, Counter[int]] = {dim: Counter() for dim in "TVDHKC"}
    layers: set[int] = set()
    for name, shape in shapes.items():
        pattern = re.sub(r"^model/h\d{1,9}/", "model/h{i}/", name)
        if pattern not in dims or len(shape) != len(dims[pattern]):
            continue
        if pattern != name:
            layers.add(int(name.split("/")[1][1:]))
        for dim, size in zip(dims[pattern], shape, strict=True):
            if dim in votes:
                votes[dim][size] += 1
    found = {dim: counted.most_common(1)[0][0] for dim, counted in votes.items() if counted}
    unknown = [row.theirs for row in ROWS if not found.keys() >= set(row.dims.split()) & set("TVDHK")]
    if unknown or not layers:
        raise InputError(f"{origin}: holds no Image GPT: nothing like {', '.join(unknown) or ROWS[5].theirs}")
    try:
        return ModelConfig(
            grid=square_grid(found["T"], grid, origin),
            vocab_size=found["V"],
            n_layer=min(max(layers) + 1, 2 * len(layers)),  # a wild number in one name is not believed
            n_head=found["H"],
            d_model=found["D"],
            causal="model/sos" in shapes,
            clf_classes=found.get("C", 0),
        )
    except InputError as error:
        raise InputError(f"{origin}: {str(error).removeprefix(f'{origin}: ')}") from None


def write_openai(found: Pretrained, directory: Path) -> Path:
    """Writes DIRECTORY/model.ckpt-STEP (index and data shards) and, where there is a palette, kmeans_centers.npy.

    Biases that are all zero are left out, since the release has none.

    Returns:
      The checkpoint's prefix.

    Raises:
      InputError: TensorFlow is not installed, or the model has what the release's layout cannot hold; nothing has been
        written then.
      OSError: the directory cannot be written.
    """
    cfg, params = found.model.cfg, flat(found.params)
    biases = [path for path in params if path.endswith("/b") and bool(jnp.any(params[path] != 0))]
    alien = [f"biases that are not zero ({listed(biases)})"] if biases else []
    alien += ["class_table (model.cond_classes)"] if cfg.cond_classes else []
    side = math.isqrt(cfg.n_ctx)
    if side * side == cfg.n_ctx and cfg.grid != (side, side):
        alien.append(f"a grid of {times(cfg.grid)}, which would be read back as {side} x {side}")
    if alien:
        raise InputError(f"OpenAI's layout has no place for {'; '.join(alien)}; a workdir holds them all")
    tf = _tensorflow()
    directory.mkdir(parents=True, exist_ok=True)
    prefix, parts = directory / f"model.ckpt-{found.step or 0}", []
    try:
        for shard in _shards(write_tensors(ROWS, cfg, params)):
            parts.append(str(directory / "parts" / f"{len(parts)}"))
            names = sorted(shard)
            tf.raw_ops.SaveV2(
                prefix=parts[-1],
                tensor_names=names,
                shape_and_slices=[""] * len(names),
                tensors=[shard[name] for name in names],
            )
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(prefix), delete_old_dirs=True)
    except tf.errors.OpError as error:
        raise OSError(f"{directory}: {error.message}") from None
    if found.palette is not None:
        found.palette.save(directory / PALETTE)
    return prefix


def _shards(tensors: Iterator[tuple[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """The tensors in groups of about _SHARD_BYTES."""
    shard: dict[str, np.ndarray] = {}
    for name, tensor in tensors:
        shard[name] = tensor
        if sum(x.nbytes for x in shard.values()) >= _SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


@contextlib.contextmanager
def _damage_named(prefix: Path) -> Iterator[None]:
    """Whatever TensorFlow makes of damaged files becomes one line that names them."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        why = first_line(error, 150)
        raise InputError(
            f"{prefix}: cannot be read ({why}); its .index or .data files are damaged or missing"
        ) from None


def _tensorflow() -> Any:
    """The module, without its remarks and without the GPUs, which are JAX's; InputError where it is not installed."""
    with contextlib.nullcontext() if "tensorflow" in sys.modules else _no_stderr():
        try:
            import tensorflow
        except ImportError:
            raise InputError(
                "OpenAI's checkpoints need tensorflow, which is not installed; pip install -e '.[openai]'"
            ) from None
        tf: Any = tensorflow  # its lazily loaded parts are unknown to type checkers
        with contextlib.suppress(RuntimeError):  # the caller uses it already
            tf.config.set_visible_devices([], "GPU")
    return tf


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Nothing reaches file descriptor 2, where TensorFlow talks while it is imported, whatever its log level."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
