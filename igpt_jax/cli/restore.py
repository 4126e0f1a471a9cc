"""igpt restore: the clean picture from a damaged one."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from igpt_jax.cli.common import Flag, Inline, JoinedCommand, ModelArgs, SamplerArgs
from igpt_jax.cli.output import Drawn, check_result_path, save_images
from igpt_jax.config_json import json_text
from igpt_jax.errors import InputError
from igpt_jax.files import local_path

if TYPE_CHECKING:
    from igpt_jax.config import Config
    from igpt_jax.sampling.restore import Restored

SHOWN_DRAWS = 3
"""Draws of each picture in a .png of all of them."""


@dataclass(frozen=True, kw_only=True)
class Restore(JoinedCommand):
    """Restore damaged pictures, with a model that was trained with objective restore."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Damaged picture files, not smaller than the model's grid. Larger ones are worked on in overlapping windows."""
    weights: Annotated[ModelArgs, Inline] = field(default_factory=ModelArgs)
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8
    """Draws of each picture, and of its mean."""
    original: tuple[Path, ...] = ()
    """The undamaged pictures in the same order, to compare with."""
    degrade: str | None = None
    """To try it: the pictures are clean, and are damaged first, as in data.degrade: gaussian:0.1."""
    fit: Flag = False
    """Bring the pictures to the model's grid first, as in training."""
    json: Flag = False
    """Print PSNR (dB) and SSIM of the damaged pictures, the means and the draws as JSON; needs the originals."""
    out: Path | None = None
    """.png: before and after; a new directory: the mean and every draw as PNGs of full size. By default
    restorations-seed<seed>.png in the workdir."""
    sampler: Annotated[SamplerArgs, Inline] = field(default_factory=SamplerArgs)

    def run(self) -> None:
        """Restores, writes and compares."""
        self.check()
        out = check_result_path(self.weights.result_path(self.out, f"restorations-seed{self.sampler.seed}.png"))
        if out.suffix not in ("", ".png"):
            raise InputError(f"--out {out}: must end in .png, or be a directory for one PNG a picture")

        from igpt_jax.parallel.processes import raise_on_all, require_same
        from igpt_jax.sampling.restore import check_restores

        weights = self.weights.load()
        with raise_on_all():
            check_restores(weights.config.model)
            damaged, originals = self.read(weights.config)
        digest = hashlib.sha256(b"".join(image.tobytes() for image in damaged)).hexdigest()
        require_same("the images", digest)
        sampler = self.sampler.over(weights.config.sampler)
        restored = restore_each(weights, damaged, self.n, sampler)
        stems = [f"{i}-{path.stem}" for i, path in enumerate(self.images)]
        images = [image for r in restored for image in (r.mean[0], *r.draws[0])]
        names = [f"{stem}-{which}" for stem in stems for which in ("mean", *(f"draw{j}" for j in range(self.n)))]
        settings = {"model": self.weights.path, "step": weights.step, "degrade": self.degrade, **asdict(sampler)}
        save_images(out, Drawn(images, names, lambda: before_after(damaged, restored, originals), (), settings))
        figures = [] if originals is None else [compared(*row) for row in zip(originals, damaged, restored)]
        if self.json:
            rows = [{"image": str(path), **row} for path, row in zip(self.images, figures, strict=True)]
            print(json_text({"out": str(out), "images": rows}, indent=2))
            return
        print(out)
        for path, row in zip(self.images, figures):
            psnr = {name: np.mean(value) for name, value in row["psnr"].items()}
            print(f"{path}: PSNR " + ", ".join(f"{name} {value:.2f} dB" for name, value in psnr.items()))

    def check(self) -> None:
        """Raises InputError for options that do not go together."""
        if not self.images:
            raise InputError("restore: no image named")
        if self.n < 1:
            raise InputError(f"-n {self.n}: must be at least 1")
        if self.original and self.degrade is not None:
            raise InputError("restore: with --degrade the pictures are the originals; leave out --original")
        if self.original and len(self.original) != len(self.images):
            raise InputError(f"--original: names {len(self.original)} pictures for {len(self.images)}; one for each")
        if self.json and not self.original and self.degrade is None:
            raise InputError("--json: compares with the originals; name them with --original, or take --degrade")
        if self.degrade is not None:
            from igpt_jax.data.degrade import parse_spec

            parse_spec(self.degrade, "--degrade")

    def read(self, cfg: Config) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
        """The damaged pictures uint8 [y, x, C], and their originals where they are known.

        Raises:
          InputError: a file cannot be read, a picture is too small, or its original has another size.
        """
        from igpt_jax.data.degrade import make_damage
        from igpt_jax.data.reading import load_image
        from igpt_jax.datasets import picture_size, preprocess_for_eval

        def load(paths: tuple[Path, ...], key: str) -> list[np.ndarray]:
            return [load_image(local_path(path, key), cfg.data.channels) for path in paths]

        images, originals = load(self.images, "image"), load(self.original, "--original")
        for path, image, original in zip(self.original, images, originals):
            if original.shape != image.shape:
                sizes = " and ".join(f"{x.shape[1]} x {x.shape[0]}" for x in (original, image))
                raise InputError(f"--original {path}: has another size than its damaged picture ({sizes} pixels)")
        if self.fit:
            images, originals = ([*preprocess_for_eval(cfg, x)] if x else [] for x in (images, originals))
        y, x = picture_size(cfg)
        for path, image in zip(self.images, images, strict=True):
            if image.shape[0] < y or image.shape[1] < x:
                raise InputError(
                    f"image {path}: {image.shape[1]} x {image.shape[0]} pixels, but the model's grid has {x} x {y}; "
                    "enlarge it, or take --fit"
                )
        if self.degrade is None:
            return images, originals or None
        damage = make_damage([self.degrade], train=True)
        assert damage is not None
        seeds = ((self.sampler.seed, i) for i in range(len(images)))
        return [damage(image, np.random.default_rng(seed)) for image, seed in zip(images, seeds)], images


def restore_each(weights: Any, damaged: list[np.ndarray], n: int, sampler: Any) -> list[Restored]:
    """Each picture's restoration, B = 1; those of one size are restored together."""
    from igpt_jax.sampling.restore import Restored, restore

    restored: dict[int, Restored] = {}
    for shape in {image.shape: None for image in damaged}:
        chosen = [i for i, image in enumerate(damaged) if image.shape == shape]
        images = np.stack([damaged[i] for i in chosen])
        result = restore(weights.model, weights.params, weights.colors, images, n, sampler=sampler)
        restored |= {i: Restored(result.draws[k : k + 1], result.mean[k : k + 1]) for k, i in enumerate(chosen)}
    return [restored[i] for i in range(len(damaged))]


def before_after(damaged: list[np.ndarray], restored: list[Restored], originals: list[np.ndarray] | None) -> np.ndarray:
    """Damaged, some draws, mean and original of each picture, one below the other."""
    from igpt_jax.viz import restoration_strips, stacked

    rows = []
    for i, (image, result) in enumerate(zip(damaged, restored, strict=True)):
        original = None if originals is None else originals[i][None]
        rows.append(restoration_strips(image[None], result.draws[:, :SHOWN_DRAWS], result.mean, original))
    return stacked(rows)


def compared(original: np.ndarray, damaged: np.ndarray, restored: Restored) -> dict[str, Any]:
    """PSNR in dB and SSIM of one picture, its mean and each draw, for JSON."""
    from igpt_jax.evaluation.quality import psnr_of_each, ssim_of_each

    versions = {"damaged": damaged[None], "mean": restored.mean, "draws": restored.draws[0]}

    def each(measure: Any) -> dict[str, Any]:
        values = {name: measure(original[None].repeat(len(x), axis=0), x).tolist() for name, x in versions.items()}
        return {name: x if name == "draws" else x[0] for name, x in values.items()}

    return {"psnr": each(psnr_of_each), "ssim": each(ssim_of_each)}
