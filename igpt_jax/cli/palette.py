"""igpt palette: fit a palette, or look at one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import tyro

from igpt_jax.cli.common import Command, check_at_least_one
from igpt_jax.cli.output import check_directory, writing
from igpt_jax.config import Config, DataConfig, ModelConfig
from igpt_jax.errors import InputError
from igpt_jax.files import local_path


@dataclass(frozen=True, kw_only=True)
class FitPalette(Command):
    """Fit a colour palette to images (or look at one), and see what it keeps."""

    less_memory: ClassVar[str] = "fewer --images need less"
    source: tyro.conf.Positional[str]
    """digits, folder:PATH, idx:PATH or tfds:NAME."""
    out: str
    """Directory for palette.npy, swatch.png and before_after.png."""
    colors: int = 512
    """Palette entries V."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    size: tuple[int, int] = (32, 32)
    """Rows and columns the images are brought to."""
    images: int = 2000
    """Images whose pixels are fitted."""
    seed: int = 0
    """Of the k-means start."""
    load: Path | None = None
    """A palette .npy to look at instead of fitting one."""
    max_unreadable: Annotated[float, tyro.conf.arg(name="data.max-unreadable")] = DataConfig.max_unreadable
    """Largest share of a folder's images that may be unreadable and skipped."""

    def run(self) -> None:
        from igpt_jax.datasets import open_data
        from igpt_jax.evaluation.quality import psnr
        from igpt_jax.palette import Palette
        from igpt_jax.viz import before_after, palette_swatch, save_png

        check_at_least_one(images=self.images)
        out = local_path(self.out, "--out")
        if (out / "palette.npy").exists():
            raise InputError(f"--out {out}: holds a palette.npy already; name another directory")
        check_directory(out)
        palette = Palette.load(local_path(self.load, "--load")) if self.load else None
        channels = palette.channels if palette else self.channels
        settings = DataConfig(source=self.source, channels=channels, max_unreadable=self.max_unreadable)
        model = ModelConfig(grid=self.size, vocab_size=self.colors)
        data = open_data(Config(seed=self.seed, model=model, data=settings))
        palette = palette or Palette.fit(data.images(data.train, self.images), self.colors, self.seed)
        held_out = data.images(data.held_out, 256)
        decoded = np.asarray(palette.decode(palette.encode(held_out)))
        with writing(out):
            palette.save(out / "palette.npy")
            save_png(out / "swatch.png", palette_swatch(palette))
            save_png(out / "before_after.png", before_after(held_out[:16], decoded[:16]))
        quality = f"reconstruction PSNR {psnr(held_out, decoded):.2f} dB on {len(held_out)} held-out images"
        print(f"{palette.size} colours; {quality}")
        print(*(out / name for name in ("palette.npy", "swatch.png", "before_after.png")), sep="\n")
