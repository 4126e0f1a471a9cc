"""Hugging Face's ImageGPT directories: config.json, safetensors and the image processor's file, read and written.

Only safetensors are opened. Pickles are refused, because they can run code. Names on the Hub are resolved here, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.config import ModelConfig
from igpt_jax.config_json import json_text
from igpt_jax.errors import InputError, first_line
from igpt_jax.model import abstract_params, mlp_width
from igpt_jax.palette import Palette
from igpt_jax.pretrained import Pretrained
from igpt_jax.training.step import make_model
from igpt_jax.weights import table
from igpt_jax.weights.table import Row
from igpt_jax.weights.weight_files import INSTEAD_OF_PICKLES, open_weights, read_json, write_weights

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
    Row(_LAYER + "mlp.c_fc.weight", "D F", ("h/mlp/c_fc/w",)),
    Row(_LAYER + "mlp.c_proj.weight", "F D", ("h/mlp/c_proj/w",)),
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
    Row(_LAYER + "mlp.c_fc.bias", "F", ("h/mlp/c_fc/b",)),
    Row(_LAYER + "mlp.c_proj.bias", "D", ("h/mlp/c_proj/b",)),
)
ROWS = WEIGHT_ROWS + BIAS_ROWS

# The only values that this decoder computes. They are also the defaults of transformers.
_FIXED: dict[str, Any] = {
    "activation_function": "quick_gelu",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": False,
    "add_cross_attention": False,
}
# Copies of the causal mask in older files.
_BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
# Sizes in config.json, with the defaults of transformers.
_SIZES = {"n_positions": 1024, "vocab_size": 513, "n_layer": 24, "n_head": 8, "n_embd": 512}


def open_huggingface(
    directory: Path, palette: Palette | None = None, grid: tuple[int, ...] | None = None, name: str | None = None
) -> table.Opened:
    """An `ImageGPTForCausalImageModeling` directory, as its `save_pretrained` or `write_huggingface` left it.

    The last row of its vocabulary is the start vector. Biases that are all zero, as in OpenAI's weights, are left out.
    `palette` and `grid` None take those of preprocessor_config.json; without that file there is no palette and the grid
    is a square.
    """
    origin = str(directory)
    processor = read_json(directory / PROCESSOR) if (directory / PROCESSOR).exists() else {}
    cfg = _read_config(directory / "config.json", processor, grid)
    tensors = open_weights(directory, _BUFFERS)
    if "score.weight" in tensors.shapes:
        raise InputError(
            f"{origin}: is a classifier (score.weight), which was trained one position off, without the start vector; "
            "take an ImageGPTForCausalImageModeling"
        )
    if cfg.n_layer > len(tensors.shapes):  # otherwise `check` would make billions of names
        raise InputError(f"{origin}: n_layer of config.json is {cfg.n_layer}; there are {len(tensors.shapes)} tensors")
    table.check(ROWS, cfg, tensors, origin)
    if not any(tensors.read(bias).any() for bias in table.expected(BIAS_ROWS, cfg)):
        cfg = replace(cfg, use_bias=False)
    if palette is None and processor.get("clusters") is not None:
        palette = _read_palette(processor, directory / PROCESSOR)
    config = table.config_of(name or directory.absolute().name, cfg, palette, origin)
    shapes = Pretrained(make_model(config), abstract_params(cfg), palette, config, None)
    return table.Opened(shapes, ROWS if cfg.use_bias else WEIGHT_ROWS, tensors.read)


def _read_config(path: Path, processor: Mapping[str, Any], grid: tuple[Any, ...] | None) -> ModelConfig:
    """The model of config.json, with biases."""
    values = _SIZES | read_json(path)
    if values.get("model_type") != "imagegpt":
        raise InputError(f"{path}: model_type is {values.get('model_type')!r}; only 'imagegpt' is read")
    for key in _SIZES:
        if type(values[key]) is not int or not 1 <= values[key] < 2**31:
            raise InputError(f"{path}: {key} is {values[key]!r}, not a positive number")
    wrong = [f"{key} {values[key]!r}" for key, value in _FIXED.items() if values.get(key, value) != value]
    size = processor.get("size")
    if grid is None and size is not None:
        grid = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    cfg = table.model_of(
        values["n_positions"],
        grid,
        str(path.parent),
        vocab_size=values["vocab_size"] - 1,
        n_layer=values["n_layer"],
        n_head=values["n_head"],
        d_model=values["n_embd"],
        use_bias=True,
    )
    if values.get("n_inner") not in (None, mlp_width(cfg)):
        wrong.append(f"n_inner {values['n_inner']!r}")
    if wrong:
        raise InputError(f"{path}: does not compute what Image GPT does: {', '.join(wrong)}; it cannot be read")
    return cfg


def _read_palette(processor: Mapping[str, Any], path: Path) -> Palette:
    with table.reading(f"{path}: clusters", "name a .npy (--palette)"):
        centers = np.asarray(processor["clusters"], np.float32)
        try:
            palette = Palette(centers)
        except InputError as error:
            raise ValueError(error) from None
        if processor.get("channels") != 1:
            return palette
        if (centers != centers[:, :1]).any():
            raise ValueError("channels is 1, and they are not grey")
        return Palette(centers[:, :1])


def write_huggingface(source: Pretrained, directory: Path, max_shard_bytes: int = 1_000_000_000) -> Path:
    """Writes what `ImageGPTForCausalImageModeling.from_pretrained` and transformers' image processor load.

    Biases are written as zeros if the model has none. The three dropouts are 0, as in the paper; the default of
    transformers and of OpenAI's weights on the Hub is 0.1. Greys are written as RGB, and the processor's file then says
    "channels": 1. `bos_token_id` is the start vector's row. It must stand before the pixels: input ids are
    [V, x_0, ..., x_(T-2)]. Memory holds the tensors of one file of `max_shard_bytes`.
    """
    cfg, params = source.model.cfg, table.flat(source.params)
    unsupported = [] if cfg.causal else ["a BERT model (model.causal False)"]
    unsupported += table.variants(cfg) + table.without_place(ROWS, params)
    unsupported += [f"a grid of {table.times(cfg.grid)}"] if len(cfg.grid) != 2 else []
    if unsupported:
        raise InputError(f"Hugging Face's ImageGPT has no place for {', '.join(unsupported)}; a workdir holds them all")
    full = replace(cfg, use_bias=True)
    shapes = {path: x.shape for path, x in table.flat(abstract_params(full)).items() if path not in params}
    params |= {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json_text(_config_values(cfg)), encoding="utf-8")
    (directory / PROCESSOR).write_text(json_text(_processor_values(cfg, source.palette)), encoding="utf-8")
    write_weights(directory, table.expected(ROWS, full), table.write_tensors(ROWS, full, params), max_shard_bytes)
    return directory


def _config_values(cfg: ModelConfig) -> dict[str, Any]:
    sizes = (cfg.n_ctx, cfg.vocab_size + 1, cfg.n_layer, cfg.n_head, cfg.d_model)
    other = {"model_type": "imagegpt", "architectures": ["ImageGPTForCausalImageModeling"], "n_inner": None}
    other |= {"initializer_range": 0.02, "reorder_and_upcast_attn": False, "use_cache": True}
    other |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return other | _FIXED | dict(zip(_SIZES, sizes)) | {"bos_token_id": cfg.vocab_size}


def _processor_values(cfg: ModelConfig, palette: Palette | None) -> dict[str, Any]:
    values: dict[str, Any] = {"image_processor_type": "ImageGPTImageProcessor", "do_resize": True, "resample": 2}
    values |= {"size": dict(zip(("height", "width"), cfg.grid)), "do_normalize": True}
    values |= {"do_color_quantize": palette is not None}
    if palette is not None:
        values["clusters"] = np.broadcast_to(palette.centers, (palette.size, 3)).tolist()
        values |= {"channels": 1} if palette.channels == 1 else {}
    return values


def fetch_snapshot(name: str) -> Path:
    """Downloads the JSON files and safetensors of owner/name[@revision], unless cached, and returns their folder."""
    absent = f"{name}: is no file or directory here"
    try:
        from huggingface_hub import errors, snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(f"{absent}, and the Hub needs huggingface_hub; pip install 'igpt_jax[hf]'") from None
    repository, _, revision = name.partition("@")
    files = ["*.json", "*.safetensors"]
    try:
        path = Path(snapshot_download(repository, revision=revision or None, allow_patterns=files))
    except errors.GatedRepoError:
        raise InputError(f"{name}: asks for your consent; give it on its Hub page, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{absent}, and no public repository on the Hub") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{repository}: has no revision {revision!r} on the Hub") from None
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error, 150)}"
        raise InputError(f"{absent}, and the Hub gave no answer ({why}); check network and name") from None
    if not any(path.glob("*.safetensors")):
        raise InputError(f"{name}: holds no safetensors on the Hub, and pickles are not read; {INSTEAD_OF_PICKLES}")
    return path
