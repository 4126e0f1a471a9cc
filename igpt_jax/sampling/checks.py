"""Whether a model can draw what is asked of it. Every task asks here, and so does a run before it trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from igpt_jax.config import ModelConfig, SamplerConfig, Task
from igpt_jax.errors import InputError, nearest, require
from igpt_jax.model import abstract_params
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import path_name
from igpt_jax.sampling.methods import METHODS
from igpt_jax.sampling.orders import ORDERS

Classes = Sequence[int] | np.ndarray | int | None


def check_request(
    cfg: ModelConfig,
    task: Task,
    sampler: SamplerConfig,
    classes: np.ndarray | None = None,
    class_dropout: float | None = None,
) -> None:
    """Raises InputError unless such a model can do the task with these settings.

    Args:
      classes: int [n], -1 or None for no class.
      class_dropout: that of the run (`Config.class_dropout`), None if it is not known. A model that was told the class
        of every image has not learned to draw without one.
    """
    order, restores = sampler.order, task == "restore"
    missing = "does not restore pictures; train one with objective restore and data.degrade"
    require(cfg.has_conditioning or not restores, "model", missing)
    require(not cfg.has_conditioning or restores, "model", "reads a degraded picture; it can restore, and nothing else")
    blind = "a BERT model sees all pixels at once and does not draw one after another; it can inpaint"
    require(cfg.causal or task == "inpaint", "model.causal", blind)
    is_clip = f"{cfg.grid} is one of pictures; clips need (frames, rows, columns) with several frames"
    require(cfg.n_frame > 1 or task != "clips", "model.grid", is_clip)
    one_of("sampler.order", order, ORDERS)
    require(order == "raster" or not restores, "sampler.order", f"{order!r} is not possible for restorations")
    in_turn = order in ("raster", "known_first") or task != "clips"  # the same where the first frames are known
    require(in_turn, "sampler.order", f"{order!r} does not draw one frame after another; take raster")
    free = order == "raster" or cfg.any_order or not cfg.causal or task == "clips"
    require(free, "sampler.order", f"this model draws in raster order only; {order} needs model.any_order")
    if task == "inpaint":
        name = pick_method(cfg, sampler.method)
        for setting, default in (("lookahead", "auto"), ("cache", "auto")):
            used = getattr(sampler, setting) in (default, 0) or setting in METHODS[name].uses
            require(used, f"sampler.{setting}", f"is not supported by method {name}; leave it at {default}")
    no_class = classes is None or min(classes) < 0
    if sampler.guidance != 1:
        guides = task in ("sample", "complete")
        require(guides, "sampler.guidance", "is for new images and completions; leave it at 1")
        require(cfg.cond_classes > 0, "sampler.guidance", "this model has no classes (model.cond_classes)")
        require(classes is not None and max(classes) >= 0, "sampler.guidance", "needs an image with a class")
    untrained = cfg.cond_classes and class_dropout == 0 and (no_class or sampler.guidance != 1)
    ways = "name a class for each image" if task in ("sample", "complete", "inpaint") else "train with a value above 0"
    draws = "0 in this run, so the model has not learned to draw without a class"
    require(not untrained, "class_dropout", f"{draws}; {ways}" + ("" if no_class else ", and leave guidance at 1"))


def pick_method(cfg: ModelConfig, name: str) -> str:
    """The method to inpaint with: auto is resolved, another name is checked."""
    possible = [method for method, row in METHODS.items() if row.fits(cfg)]
    if name == "auto":
        return possible[0]
    one_of("sampler.method", name, METHODS)
    words = f"{name} needs {METHODS[name].needs}; this model supports {', '.join(possible)}"
    require(name in possible, "sampler.method", words)
    return name


def one_of(key: str, value: str, choices: Iterable[str]) -> None:
    """Raises InputError unless a value is among the choices."""
    require(value in choices, key, f"must be one of {', '.join(choices)}; got {value!r}{nearest(value, choices)}")


def check_counts(**counts: int) -> None:
    """Raises InputError that names a count below 1."""
    for name, count in counts.items():
        require(count >= 1, name, f"must be at least 1; got {count}")


def checked_images(
    images: Any, size: tuple[int, ...], palette: Palette, name: str = "images", larger: bool = False
) -> np.ndarray:
    """The images as an array; InputError unless they are uint8 [B, *size, C], B at least 1.

    Args:
      size: 0 for any number from 1 on.
      larger: rows and columns may be more than these.
    """
    images = np.asarray(images)
    kind = images.dtype == np.uint8 and images.ndim == len(size) + 2 and images.shape[-1] == palette.channels
    shown = f"uint8 [B, {', '.join(str(n or 'frames') for n in size)}, {palette.channels}]"
    shown += " or larger; enlarge them" if larger else ""
    wrong = f"must be {shown}; got {images.dtype} {images.shape}"
    require(kind and 0 not in images.shape[:-1], name, wrong)
    fits = all(n == m or not m or (larger and n > m) for n, m in zip(images.shape[1:-1], size, strict=True))
    require(fits, name, wrong)
    return images


def checked_mask(known: Any, images: np.ndarray) -> np.ndarray:
    """The mask as bool [B, *size], True for pixels that stay; InputError unless it has the size of the images."""
    known, shape = np.asarray(known), images.shape[:-1]
    wrong = f"must be bool {shape[1:]} or {shape}; got {known.dtype} {known.shape}"
    require(known.dtype == bool and known.shape in (shape, shape[1:]), "known", wrong)
    return np.broadcast_to(known, shape)


def class_ids(cfg: ModelConfig, classes: Classes, n: int) -> np.ndarray | None:
    """int32 [n], or None for a model without classes; InputError if these are no classes of it."""
    count = cfg.cond_classes
    if classes is None:
        return np.full(n, -1, np.int32) if count else None
    require(count > 0, "classes", "this model was not trained with classes (model.cond_classes); leave them out")
    ids = np.asarray(classes)
    fits = ids.dtype.kind in "iu" and ids.shape in ((), (n,)) and ids.min() >= -1 and ids.max() < count
    require(fits, "classes", f"must be one or {n} integers in 0..{count - 1}, or -1 for no class; got {classes}")
    return np.broadcast_to(ids, n).astype(np.int32)


def check_weights(model: ImageGPT, params: Params, palette: Palette) -> None:
    """Raises InputError if palette or parameters are not those of a model."""
    made_for = f"{palette.size} colours, but the model was made for {model.cfg.vocab_size}"
    require(palette.size == model.cfg.vocab_size, "palette", made_for)
    wanted, shapes = (
        {path_name(path): np.shape(x) for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (abstract_params(model.cfg), params)
    )
    if shapes == wanted:
        return
    inner = " (pass what is under 'params')" if isinstance(params, dict) and set(params) == {"params"} else ""
    missing = sorted(wanted.keys() - shapes.keys())
    others = sorted(name for name in shapes if shapes[name] != wanted.get(name))
    parts = [f"no {', '.join(missing[:3])}"] if missing else []
    parts += [f"{', '.join(others[:3])} of another shape or name"] if others else []
    raise InputError(f"params: not the parameters of this model: {'; '.join(parts)}{inner}")
