"""Pictures of what a model has learned: grids of samples and strips of completions, as an evaluator and as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.config import SamplerConfig
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.sampling.sampler import complete, sample
from igpt_jax.viz import completion_strips, image_grid, save_png


class SampleGrids:
    """Writes a grid of samples, always from the same seed, to `directory/step_XXXXXXXX.png`."""

    def __init__(self, model: ImageGPT, palette: Palette, directory: Path, cfg: SamplerConfig, n: int = 16):
        self._model, self._palette, self._directory, self._cfg, self._n = model, palette, directory, cfg, n

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields nothing; there is only the picture."""
        self._directory.mkdir(exist_ok=True)
        path = self._directory / f"step_{step:08d}.png"
        write_samples(path, self._model, params, self._palette, self._n, self._cfg, seed=0)
        return iter(())


def write_samples(
    path: Path,
    model: ImageGPT,
    params: Any,
    palette: Palette,
    n: int,
    cfg: SamplerConfig,
    seed: int,
    batch_size: int = 64,
) -> np.ndarray:
    """Draws n images and writes their grid. Returns uint8 [n, Y, X, C]."""
    images = sample(
        model,
        params,
        palette,
        n,
        seed=seed,
        batch_size=batch_size,
        **asdict(cfg),
    )
    save_png(path, image_grid(images))
    return images


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
    batch_size: int = 64,
) -> np.ndarray:
    """Draws n completions of every image and writes the strips. Returns uint8 [B, n, Y, X, C]."""
    completions = complete(
        model,
        params,
        palette,
        images,
        known,
        n,
        seed=seed,
        batch_size=batch_size,
        **asdict(cfg),
    )
    save_png(path, completion_strips(images, known, completions, originals=images))
    return completions
