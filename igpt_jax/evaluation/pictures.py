"""Pictures of what a model has learned: samples, completions and reconstructions, as evaluators and as files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.config import SamplerConfig
from igpt_jax.keys import fold_in
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.objectives import draw_keep, stream
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import fetch_whole, mesh_of, traced_on
from igpt_jax.parallel.multihost import decide
from igpt_jax.sampling.sampler import complete, sample
from igpt_jax.viz import completion_strips, image_grid, save_png

CLASS_ROWS = 16
"""At most so many classes are shown, one a row."""


class SampleGrids:
    """Writes a grid of samples, always from the same seed, to `directory/step_XXXXXXXX.png`."""

    def __init__(self, model: ImageGPT, palette: Palette, directory: Path, cfg: SamplerConfig, n: int = 16):
        self._model, self._palette, self._directory, self._cfg, self._n = model, palette, directory, cfg, n

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields nothing; there is only the picture."""
        path = self._directory / f"step_{step:08d}.png"
        write_samples(path, self._model, params, self._palette, self._n, self._cfg, seed=0)
        return iter(())


class Reconstructions:
    """For BERT models: writes masked images and what becomes of them to `directory/step_XXXXXXXX.png`."""

    def __init__(self, model: ImageGPT, palette: Palette, directory: Path, images: np.ndarray):
        self._model, self._palette, self._directory, self._images = model, palette, directory, images

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields nothing; there is only the picture."""
        path = self._directory / f"step_{step:08d}.png"
        write_reconstructions(path, self._model, params, self._palette, self._images)
        return iter(())


def write_samples(
    path: Path,
    model: ImageGPT,
    params: Any,
    palette: Palette,
    n: int,
    cfg: SamplerConfig,
    seed: int,
) -> None:
    """Draws n images and writes their grid; of a class-conditional model 8 of each of the first 16 classes."""
    classes, columns = None, None
    if model.cfg.cond_classes:
        columns = 8
        classes = np.repeat(np.arange(min(model.cfg.cond_classes, CLASS_ROWS)), columns)
        n = len(classes)
    images = sample(model, params, palette, n, classes=classes, seed=seed, **asdict(cfg))
    _save(path, lambda: image_grid(images, columns))


def write_completions(
    path: Path,
    model: ImageGPT,
    params: Any,
    palette: Palette,
    images: np.ndarray,
    known: np.ndarray,
    n: int,
    cfg: SamplerConfig,
    seed: int,
) -> None:
    """Draws n completions of every image and writes the strips."""
    completions = complete(model, params, palette, images, known, n, seed=seed, **asdict(cfg))
    _save(path, lambda: completion_strips(images, known, completions, originals=images))


def write_reconstructions(
    path: Path, model: ImageGPT, params: Any, palette: Palette, images: np.ndarray, seed: int = 0
) -> None:
    """Blanks tokens of every image as in BERT training, puts the likeliest colours there, all at once, and writes the
    strips.
    """
    keep_BT = np.asarray(draw_keep(fold_in(stream(seed, "eval"), jnp.arange(len(images))), model.cfg.n_ctx))
    tokens_BT = np.asarray(palette.encode(images)).reshape(len(images), -1)
    likeliest_BT = traced_on(mesh_of(params), likeliest)(model, params, tokens_BT, keep_BT)
    filled_BT = np.where(keep_BT, tokens_BT, fetch_whole(likeliest_BT))
    filled = palette.decode(filled_BT.reshape(len(images), *model.cfg.grid))
    known = keep_BT.reshape(filled.shape[:-1])
    _save(path, lambda: completion_strips(images, known, filled[:, None], originals=images))


@functools.partial(jax.jit, static_argnames="model")
def likeliest(model: ImageGPT, params: Any, tokens_BT: jax.Array, keep_BT: jax.Array) -> jax.Array:
    """int32 [B, T]: the likeliest token at every position of partly blanked images."""
    logits_BTV: Any = model.apply({"params": params}, tokens_BT, keep_BT)
    return jnp.argmax(logits_BTV, axis=-1).astype(jnp.int32)


def _save(path: Path, picture: Callable[[], np.ndarray]) -> None:
    """All processes draw, and process 0 writes; where it cannot, all end."""
    decide(lambda: save_png(path, picture()))
