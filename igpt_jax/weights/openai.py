"""OpenAI's checkpoints: TensorFlow 1 variables with the names of `src/model.py` of the release, read and written.

The shapes say everything about the model. TensorFlow is needed for its reader and writer only.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from igpt_jax.config import ModelConfig
from igpt_jax.errors import InputError
from igpt_jax.model import abstract_params
from igpt_jax.palette import Palette
from igpt_jax.pretrained import Pretrained
from igpt_jax.training.step import make_model
from igpt_jax.weights import PALETTE, table
from igpt_jax.weights.table import Row

ROWS = (  # `src/model.py` of the release; BERT models have no sos
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
    Row("model/h{i}/mlp/c_fc/w", "D F", ("h/mlp/c_fc/w",)),
    Row("model/h{i}/mlp/c_proj/w", "F D", ("h/mlp/c_proj/w",)),
    Row("model/ln_f/g", "D", ("ln_f/g",)),
)

# Optimizer slots and counters, which the release's Saver wrote beside the weights.
_BOOKKEEPING = re.compile(r"(^|/)(adam_[mv]|Adam\w*|beta[12]_power\w*|global_step|_step)(/|$)")
_SHARD_BYTES = 1 << 28
"""Tensors are written in groups of about this size, so that memory holds one group."""


def open_openai(prefix: Path, palette: Palette | None = None, grid: tuple[int, ...] | None = None) -> table.Opened:
    """A checkpoint PREFIX.index with its data shards, as the release's Saver wrote them.

    Without `model/sos` it is a BERT model. If the prefix ends in a number, as model.ckpt-131000, that is the step.
    `palette` None reads `kmeans_centers.npy` beside the checkpoint, if there.
    """
    origin = str(prefix)

    def reading() -> contextlib.AbstractContextManager[None]:
        return table.reading(prefix, "its .index or .data files are damaged or missing")

    with reading():
        reader = _tensorflow().train.load_checkpoint(origin)
        names = sorted(name for name in reader.get_variable_to_shape_map() if not _BOOKKEEPING.search(name))
        shapes = {name: tuple(reader.get_variable_to_shape_map()[name]) for name in names}
        types = {name: reader.get_variable_to_dtype_map()[name].name for name in names}
        cfg = _infer_config(shapes, grid, origin)
        table.check(ROWS, cfg, table.Tensors(shapes, types, reader.get_tensor), origin)
        if palette is None and (prefix.parent / PALETTE).exists():
            palette = Palette.load(prefix.parent / PALETTE)
        config = table.config_of(prefix.absolute().parent.name, cfg, palette, origin)
    step = re.search(r"-(\d+)$", prefix.name)
    params = abstract_params(cfg)

    def read(name: str) -> np.ndarray:
        with reading():
            return reader.get_tensor(name)

    known = Pretrained(make_model(config), params, palette, config, int(step[1]) if step else None)
    return table.Opened(known, ROWS, read)


def _infer_config(shapes: Mapping[str, table.Shape], grid: tuple[int, ...] | None, origin: str) -> ModelConfig:
    """Takes each size from one tensor; `check` then compares all tensors with them."""
    wpe, wte, q_proj = "model/wpe", "model/wte", "model/h0/attn/q_proj"
    missing = [name for name, rank in {wpe: 2, wte: 2, q_proj: 3}.items() if len(shapes.get(name, ())) != rank]
    if missing:
        raise InputError(f"{origin}: holds no Image GPT: no {' and no '.join(missing)} of the right rank")
    return table.model_of(
        shapes[wpe][0],
        grid,
        origin,
        vocab_size=shapes[wte][0],
        n_layer=len({match[1] for name in shapes if (match := re.match(r"model/h(\d+)/", name))}),
        n_head=shapes[q_proj][0],
        d_model=shapes[wpe][1],
        causal="model/sos" in shapes,
        clf_classes=(shapes.get("model/clf/wclf") or (0,))[0],
    )


def write_openai(source: Pretrained, directory: Path) -> Path:
    """Writes DIRECTORY/model.ckpt-STEP (index and data shards) and the palette, and returns that prefix. Biases that
    are all zero are left out, because the release has none."""
    cfg, params = source.model.cfg, table.flat(source.params)
    if unsupported := _unsupported(cfg, params):
        raise InputError(f"OpenAI's layout has no place for {'; '.join(unsupported)}; a workdir holds them all")
    tf = _tensorflow()
    directory.mkdir(parents=True, exist_ok=True)
    prefix, parts = directory / f"model.ckpt-{source.step or 0}", []
    tensors = table.write_tensors(ROWS, cfg, params)
    try:
        for names in table.in_groups(table.expected(ROWS, cfg), _SHARD_BYTES):
            parts.append(str(directory / "parts" / f"{len(parts)}"))
            values = [value for _, value in itertools.islice(tensors, len(names))]
            tf.raw_ops.SaveV2(prefix=parts[-1], tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(prefix), delete_old_dirs=True)
    except tf.errors.OpError as error:
        raise OSError(f"{directory}: {error.message}") from None
    if source.palette is not None:
        source.palette.save(directory / PALETTE)
    return prefix


def _unsupported(cfg: ModelConfig, params: Mapping[str, Any]) -> list[str]:
    """What the release's layout cannot hold, in words."""
    others = table.without_place(ROWS, params)
    biases = [path for path in others if path.startswith("h/") and path.endswith("/b")]
    nonzero = [path for path in biases if bool(jnp.any(params[path] != 0))]
    middle = [] if cfg.clf_layer in (None, cfg.n_layer) else ["a classification head at a middle layer"]
    parts = table.variants(cfg) + middle + ([f"biases that are not zero ({table.listed(nonzero)})"] if nonzero else [])
    if others := [path for path in others if path not in biases]:
        parts.append(table.listed(others))
    side = math.isqrt(cfg.n_ctx)
    if len(cfg.grid) == 3:
        parts.append(f"a grid of {table.times(cfg.grid)}")
    elif side * side == cfg.n_ctx and cfg.grid != (side, side):
        parts.append(f"a grid of {table.times(cfg.grid)}, which would be read back as {side} x {side}")
    return parts


def _tensorflow() -> Any:
    """TensorFlow, with its log off and without the GPUs, which are JAX's; InputError if it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow
    except ImportError:
        raise InputError("OpenAI's checkpoints need tensorflow; pip install 'igpt_jax[openai]'") from None
    tf: Any = tensorflow  # type checkers do not know its lazily loaded parts
    with contextlib.suppress(RuntimeError):  # the caller uses the GPUs already
        tf.config.set_visible_devices([], "GPU")
    return tf
