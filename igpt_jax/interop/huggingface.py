"""Hugging Face's ImageGPT directories: config.json, safetensors and the image processor's file, read and written.

Only safetensors are opened; pickles are refused, since they can run code. Names on the Hub are resolved here as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import InputError, ModelConfig
from igpt_jax.interop.table import (
    Row,
    check,
    check_types,
    config_of,
    expected,
    flat,
    read_params,
    square_grid,
    times,
    write_tensors,
)
from igpt_jax.interop.weight_files import INSTEAD_OF_PICKLES, Tensors, read_json, write_json, write_weights
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.training.pretrained import Pretrained, abstract_params
from igpt_jax.validation import first_line

PROCESSOR = "preprocessor_config.json"

_QKV = ("q_proj", "k_proj", "v_proj")
_LAYER = "transformer.h.{i}."

WEIGHT_ROWS = (
    Row(
        "transformer.wte.weight",
        "V+1 D",
        ("wte", "sos"),
        split=lambda x, cfg: (x[:-1], x[-1]),  # the start vector is the last row
        join=lambda xs, cfg: np.concatenate([xs[0], xs[1][None]]),
    ),
    Row("transformer.wpe.weight", "T D", ("wpe",)),
    Row(_LAYER + "ln_1.weight", "D", ("h/ln_1/g",)),
    Row(
        _LAYER + "attn.c_attn.weight",
        "D 3D",
        tuple(f"h/attn/{name}/w" for name in _QKV),
        split=lambda x, cfg: [p.T.reshape(cfg.n_head, cfg.head_dim, -1) for p in np.split(x, 3, axis=1)],
        join=lambda xs, cfg: np.concatenate([x.reshape(cfg.d_model, -1).T for x in xs], axis=1),
    ),
    Row(
        _LAYER + "attn.c_proj.weight",
        "D D",
        ("h/attn/c_proj/w",),
        split=lambda x, cfg: (x.reshape(cfg.n_head, cfg.head_dim, -1),),
        join=lambda xs, cfg: xs[0].reshape(cfg.d_model, -1),
    ),
    Row(_LAYER + "ln_2.weight", "D", ("h/ln_2/g",)),
    Row(_LAYER + "mlp.c_fc.weight", "D 4D", ("h/mlp/c_fc/w",)),
    Row(_LAYER + "mlp.c_proj.weight", "4D D", ("h/mlp/c_proj/w",)),
    Row("transformer.ln_f.weight", "D", ("ln_f/g",)),
    Row("lm_head.weight", "V D", ("wtet",)),
)
BIAS_ROWS = (
    Row(
        _LAYER + "attn.c_attn.bias",
        "3D",
        tuple(f"h/attn/{name}/b" for name in _QKV),
        split=lambda x, cfg: list(x.reshape(3, cfg.n_head, cfg.head_dim)),
        join=lambda xs, cfg: np.concatenate([x.reshape(-1) for x in xs]),
    ),
    Row(_LAYER + "attn.c_proj.bias", "D", ("h/attn/c_proj/b",)),
    Row(_LAYER + "mlp.c_fc.bias", "4D", ("h/mlp/c_fc/b",)),
    Row(_LAYER + "mlp.c_proj.bias", "D", ("h/mlp/c_proj/b",)),
)
ROWS = WEIGHT_ROWS + BIAS_ROWS

# What the maths takes for granted: the only value allowed, which is also what transformers takes where it is not said.
_FIXED: dict[str, Any] = {
    "activation_function": "quick_gelu",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": False,
    "add_cross_attention": False,
}
# Copies of the causal mask, which older files carry.
_BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_TYPES = ("F32", "F16", "BF16")


def read_huggingface(
    directory: str | Path,
    *,
    palette: Palette | None = None,
    grid: tuple[int, ...] | None = None,
    mesh: Mesh | None = None,
    name: str | None = None,
) -> Pretrained:
    """Reads an `ImageGPTForCausalImageModeling` directory, as its `save_pretrained` or `write_huggingface` left it.

    Its vocabulary has one row more than colours: the last is the start vector. Biases are left out when all of them
    are zero, as in OpenAI's weights, and kept otherwise.

    Args:
      directory: config.json, model.safetensors or its index and shards, and maybe preprocessor_config.json.
      palette, grid: by default those of preprocessor_config.json; without that file none, and a square.
      mesh: where the parameters go; by default to the first device.
      name: of the configuration; by default the directory's.

    Raises:
      InputError: a file is missing, damaged or a pickle; the model computes something else; or its tensors are not
        those of one Image GPT.
    """
    directory = Path(directory)
    values = read_json(directory / "config.json")
    _check_maths(values, f"{directory / 'config.json'}")
    processor = read_json(directory / PROCESSOR) if (directory / PROCESSOR).exists() else {}
    grid = _grid(values, processor, grid, directory)
    try:
        cfg = ModelConfig(
            grid=grid,
            vocab_size=_count(values, "vocab_size", directory) - 1,
            n_layer=_count(values, "n_layer", directory),
            n_head=_count(values, "n_head", directory),
            d_model=_count(values, "n_embd", directory),
            use_bias=True,
        )
    except InputError as error:
        raise InputError(f"{directory / 'config.json'}: {error}") from None
    tensors = Tensors(directory, _BUFFERS)
    origin = str(directory)
    if "score.weight" in tensors.shapes:
        raise InputError(
            f"{origin}: is a classifier (score.weight); transformers feeds it pixels without the start vector, one "
            "position off, so its head does not fit this model's states; take an ImageGPTForCausalImageModeling"
        )
    if cfg.n_layer > len(tensors.shapes):  # before every name of a wild number is made up
        raise InputError(
            f"{directory / 'config.json'}: n_layer is {cfg.n_layer}; there are {len(tensors.shapes)} tensors"
        )
    check(expected(ROWS, cfg), tensors.shapes, origin)
    check_types(tensors.types, _TYPES, origin)
    if not any(tensors.read(name).any() for name in expected(BIAS_ROWS, cfg)):
        cfg = replace(cfg, use_bias=False)
    if palette is None:
        palette = _read_palette(processor, directory / PROCESSOR)
    config = config_of(name or directory.absolute().name, cfg, palette, origin)
    model = ImageGPT(cfg)
    params = read_params(ROWS if cfg.use_bias else WEIGHT_ROWS, model, tensors.read, mesh)
    return Pretrained(model, params, palette, config, None)


def _check_maths(values: Mapping[str, Any], origin: str) -> None:
    """Raises InputError when the model is none, or computes something else."""
    if values.get("model_type") != "imagegpt":
        raise InputError(f"{origin}: model_type is {values.get('model_type')!r}; only 'imagegpt' is read")
    wrong = [f"{key} {values[key]!r}" for key, value in _FIXED.items() if values.get(key, value) != value]
    inner, width = values.get("n_inner"), values.get("n_embd", 512)
    if inner is not None and not (isinstance(width, int) and inner == 4 * width):
        wrong.append(f"n_inner {inner!r}")
    if wrong:
        raise InputError(f"{origin}: computes something else than Image GPT: {', '.join(wrong)}; it cannot be read")


def _count(values: Mapping[str, Any], key: str, directory: Path) -> int:
    defaults = {"vocab_size": 513, "n_positions": 1024, "n_embd": 512, "n_layer": 24, "n_head": 8}  # of transformers
    value = values.get(key, defaults[key])
    if type(value) is not int or not 1 <= value < 2**31:
        raise InputError(f"{directory / 'config.json'}: {key} is {value!r}, not a positive number")
    return value


def _grid(
    values: Mapping[str, Any], processor: Mapping[str, Any], grid: tuple[int, ...] | None, directory: Path
) -> tuple[int, ...]:
    n_ctx = _count(values, "n_positions", directory)
    size = processor.get("size")
    if grid is not None or size is None:
        return square_grid(n_ctx, grid, str(directory))
    if isinstance(size, Mapping):
        size = (size.get("height"), size.get("width"))
    rows, columns = size if isinstance(size, tuple) else (size, size)
    if type(rows) is not int or type(columns) is not int or rows * columns != n_ctx:
        raise InputError(
            f"{directory / PROCESSOR}: size {processor['size']!r} is no grid of the model's {n_ctx} positions; "
            "say how many rows and columns (--grid)"
        )
    return (rows, columns)


def _read_palette(processor: Mapping[str, Any], path: Path) -> Palette | None:
    clusters = processor.get("clusters")
    if clusters is None:
        return None
    try:
        palette = Palette(np.asarray(clusters, np.float32))
    except (ValueError, TypeError) as error:  # InputError is one of them
        raise InputError(f"{path}: clusters are no palette ({str(error)[:150]}); name a .npy (--palette)") from None
    if processor.get("channels") != 1:
        return palette
    if not (palette.centers == palette.centers[:, :1]).all():
        raise InputError(f"{path}: channels is 1, but its clusters are not grey; name a .npy (--palette)")
    return Palette(palette.centers[:, :1])


def write_huggingface(found: Pretrained, directory: Path, max_shard_bytes: int = 5_000_000_000) -> Path:
    """Writes what `ImageGPTForCausalImageModeling.from_pretrained` and transformers' image processor load.

    Biases are written as zeros where the model has none. The three dropouts are 0, as the paper trains and fine-tunes;
    transformers' own default, and that of OpenAI's weights on the Hub, is 0.1. Greys are written as RGB, and the
    processor's file then says "channels": 1. `bos_token_id` is the start vector's row, which must stand before the
    pixels: input ids are [V, x_0, ..., x_(T-2)].

    Args:
      max_shard_bytes: of one weight file; above that there are several and an index.

    Returns:
      The directory.

    Raises:
      InputError: the model has what transformers cannot hold; nothing has been written then.
      OSError: the directory cannot be written.
    """
    cfg, params = found.model.cfg, flat(found.params)
    alien = [] if cfg.causal else ["a BERT model (model.causal False)"]
    alien += [
        f"{path} (model.{key})"
        for path, key in (("clf", "clf_classes"), ("class_table", "cond_classes"))
        if path in params
    ]
    alien += [f"a grid of {times(cfg.grid)}"] if len(cfg.grid) != 2 else []
    if alien:
        raise InputError(f"Hugging Face's ImageGPT has no place for {', '.join(alien)}; a workdir holds them all")
    full = replace(cfg, use_bias=True)
    for path, leaf in flat(abstract_params(ImageGPT(full))).items():
        if path not in params:
            params[path] = np.zeros(leaf.shape, np.float32)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", _config_values(cfg))
    write_json(directory / PROCESSOR, _processor_values(cfg, found.palette))
    write_weights(directory, expected(ROWS, full), write_tensors(ROWS, full, params), max_shard_bytes)
    return directory


def _config_values(cfg: ModelConfig) -> dict[str, Any]:
    return _FIXED | {
        "model_type": "imagegpt",
        "architectures": ["ImageGPTForCausalImageModeling"],
        "vocab_size": cfg.vocab_size + 1,
        "n_positions": cfg.n_ctx,
        "n_embd": cfg.d_model,
        "n_layer": cfg.n_layer,
        "n_head": cfg.n_head,
        "n_inner": None,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "initializer_range": 0.02,
        "reorder_and_upcast_attn": False,
        "use_cache": True,
        "bos_token_id": cfg.vocab_size,
    }


def _processor_values(cfg: ModelConfig, palette: Palette | None) -> dict[str, Any]:
    rows, columns = cfg.grid
    values: dict[str, Any] = {
        "image_processor_type": "ImageGPTImageProcessor",
        "do_resize": True,
        "size": {"height": rows, "width": columns},
        "resample": 2,
        "do_normalize": True,
        "do_color_quantize": palette is not None,
    }
    if palette is not None:
        values["clusters"] = np.broadcast_to(palette.centers, (palette.size, 3)).tolist()
        if palette.channels == 1:
            values["channels"] = 1
    return values


def fetch_snapshot(name: str) -> Path:
    """Downloads a Hub repository's JSON files and safetensors (or finds them in the cache), and returns where they lie.

    Args:
      name: owner/name or owner/name@revision.

    Raises:
      InputError: huggingface_hub is not installed, there is no such repository or revision, it is gated, the Hub cannot
        be reached, or it has no safetensors.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise InputError(
            f"{name}: is no file or directory here, and to ask the Hugging Face Hub for it, huggingface_hub is needed; "
            "pip install -e '.[hf]'"
        ) from None
    repository, _, revision = name.partition("@")
    try:
        path = Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=["*.json", "*.safetensors"])
        )
    except errors.GatedRepoError:
        raise InputError(f"{name}: asks for consent; give it on its page on the Hub, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{name}: is no file or directory here, and no public repository on the Hub") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{repository}: has no revision {revision!r} on the Hub") from None
    except Exception as error:
        why = first_line(error, 150)
        raise InputError(
            f"{name}: is no file or directory here, and the Hub gave no answer ({type(error).__name__}: {why}); check "
            "the network, or name a directory"
        ) from None
    if not any(path.glob("*.safetensors")):
        raise InputError(
            f"{name}: holds no safetensors on the Hub, and pickles are not read, which can run code when they are "
            f"opened; {INSTEAD_OF_PICKLES}"
        )
    return path
