"""Pictures of what a model has learned: samples, completions, reconstructions and restorations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.config import Config, Task
from igpt_jax.datasets import subset
from igpt_jax.evaluation.base import EvalContext, image_keys
from igpt_jax.holes import brush
from igpt_jax.keys import fold_in
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.parallel.mesh import mesh_of, to_host, traced_on
from igpt_jax.parallel.processes import on_process_zero
from igpt_jax.sampling.checks import check_request
from igpt_jax.sampling.inpaint import inpaint
from igpt_jax.sampling.restore import restore
from igpt_jax.sampling.tasks import complete, sample, top_rows
from igpt_jax.sequence import Inputs
from igpt_jax.viz import clip_sheet, image_grid, save_png, strips

CLASS_ROWS = 16
"""At most this many classes are shown, one a row."""

CLIPS_FOR_IMAGES = 8
"""Images that take the room of a clip."""

MakePicture = Callable[[EvalContext, Any, int], np.ndarray]
"""(context, params, how many images) -> uint8 [Y, X, 3]."""


def samples(context: EvalContext, params: Any, n: int) -> np.ndarray:
    """A grid of new images; of a class-conditional model 8 of each of the first 16 classes. Or rows of new clips."""
    model, classes, columns = context.model, None, None
    if model.cfg.cond_classes:
        columns = 8
        classes = np.repeat(np.arange(min(model.cfg.cond_classes, CLASS_ROWS)), columns)
        n = len(classes)
    if len(model.cfg.grid) == 3 and classes is None:
        n = max(1, n // CLIPS_FOR_IMAGES)
    drawn = sample(model, params, context.palette, n, sampler=context.cfg.sampler, classes=classes)
    return clip_sheet(drawn) if drawn.ndim == 5 else image_grid(drawn, columns)


def completions(context: EvalContext, params: Any, n: int) -> np.ndarray:
    """Held-out images: the top half, five completions, the original. An eighth of n rows.

    Of held-out clips, the first half of the frames is known; below each clip are two completions.
    """
    images = context.data.images(context.held_out, max(1, n // 8))
    known, is_clip = top_rows(context.model.cfg.grid), images.ndim == 5
    count = 2 if is_clip else 5
    options: Any = dict(sampler=context.cfg.sampler, classes=_classes(context, len(images)))
    drawn = complete(context.model, params, context.palette, images, known, count, **options)
    if is_clip:
        half = len(known) // 2
        return _clip_rows(images, drawn, [("known", half), ("original, then two drawn", len(known) - half)])
    return strips([("prompt", images), ("completion", drawn), ("original", images)], known)


def reconstructions(context: EvalContext, params: Any, n: int) -> np.ndarray:
    """Held-out images: masked as in training, with the most likely colours filled in all at once, the original."""
    model, palette = context.model, context.palette
    images = context.data.images(context.held_out, max(1, n // 8))
    keys_B = fold_in(image_keys(context, 0, len(images)), 0)
    unlabelled = {"image": jnp.asarray(images), "label": jnp.full(len(images), -1)}
    example = context.objective.example(unlabelled, keys_B)
    most_likely_BT = to_host(traced_on(mesh_of(params), most_likely)(model, params, example.inputs))
    known = np.asarray(example.inputs.fed).reshape(images.shape[:-1])
    tokens = np.where(known, np.asarray(example.labels).reshape(known.shape), most_likely_BT.reshape(known.shape))
    filled = np.asarray(palette.decode(tokens))
    if images.ndim == 5:
        return _clip_rows(images, filled[:, None])
    return strips([("prompt", images), ("completion", filled), ("original", images)], known)


def _clip_rows(originals: np.ndarray, drawn: np.ndarray, titles: Sequence[tuple[str, int]] = ()) -> np.ndarray:
    """Each original clip, uint8 [B, L, Y, X, C], above what was drawn for it, [B, n, L, Y, X, C]."""
    rows = np.concatenate([originals[:, None], drawn], axis=1)
    return clip_sheet(rows.reshape(-1, *rows.shape[2:]), titles)


def restorations(context: EvalContext, params: Any, n: int) -> np.ndarray:
    """Held-out images: degraded, three draws, their mean, the original. An eighth of n rows."""
    images = context.data.images(context.held_out, max(1, n // 8))
    degraded = context.data.degraded(images)
    restored = restore(context.model, params, context.palette, degraded, sampler=context.cfg.sampler)
    columns = [("degraded", degraded), ("draw", restored.draws[:, :3]), ("mean", restored.mean), ("original", images)]
    return strips(columns)


@functools.partial(jax.jit, static_argnames="model")
def most_likely(model: ImageGPT, params: Any, inputs: Inputs) -> jax.Array:
    """int32 [B, T]: the most likely colour of every slot's target."""
    logits_BTV: Any = model.apply({"params": params}, inputs)
    return jnp.argmax(logits_BTV, axis=-1).astype(jnp.int32)


def inpaintings(context: EvalContext, params: Any, n: int) -> np.ndarray:
    """Held-out images: a hole, five ways to fill it, the original. An eighth of n rows."""
    images = context.data.images(context.held_out, max(1, n // 8))
    keys_B = fold_in(image_keys(context, 0, len(images)), 0)
    known = ~np.stack([np.asarray(brush(key, context.data.size)) for key in keys_B])
    options: Any = dict(sampler=context.cfg.sampler, classes=_classes(context, len(images)))
    drawn = inpaint(context.model, params, context.palette, images, known, 5, **options).draws
    return strips([("prompt", images), ("completion", drawn), ("original", images)], known)


def _names_classes(cfg: Config) -> bool:
    """Whether held-out images are completed with their classes, because the run does not draw without one."""
    return bool(cfg.model.cond_classes) and (cfg.class_dropout == 0 or cfg.sampler.guidance != 1)


def _classes(context: EvalContext, n: int) -> np.ndarray | None:
    if not _names_classes(context.cfg):
        return None
    return subset(context.held_out, n).labels


class Picture(NamedTuple):
    """A picture of what a model has learned."""

    draw: MakePicture
    task: Task | None = None
    """What the sampler is asked for; None if it is not used."""


PICTURES: dict[str, Picture] = {
    "inpaintings": Picture(inpaintings, "inpaint"),
    "samples": Picture(samples, "sample"),
    "completions": Picture(completions, "complete"),
    "reconstructions": Picture(reconstructions),
    "restorations": Picture(restorations, "restore"),
}


def check_pictures(cfg: Config, names: Sequence[str]) -> None:
    """Raises InputError if a run could not draw its pictures."""
    for name in names:
        task = PICTURES[name].task
        named = task == "sample" or (task in ("complete", "inpaint") and _names_classes(cfg))
        classes = np.zeros(1, int) if named and cfg.model.cond_classes else None
        if task is not None:
            check_request(cfg.model, task, cfg.sampler, classes, cfg.class_dropout)


def write_picture(context: EvalContext, params: Any, name: str, path: Path, n: int) -> None:
    """All processes draw, and process 0 writes; if it cannot, all stop."""
    picture = PICTURES[name].draw(context, params, n)
    on_process_zero(lambda: save_png(path, picture))


class PictureEvaluator:
    """Draws a small picture at every evaluation, to `directory/step_XXXXXXXX.png`."""

    def __init__(self, context: EvalContext, name: str, directory: Path, n: int = 16):
        self._context, self._name, self._directory, self._n = context, name, directory, n

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields nothing; there is only the picture."""
        write_picture(self._context, params, self._name, self._directory / f"step_{step:08d}.png", self._n)
        return iter(())
