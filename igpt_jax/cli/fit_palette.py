"""igpt palette: fit a palette, or look at one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from igpt_jax.cli.shared import parse
from igpt_jax.config import Config, DataConfig, InputError, ModelConfig, PaletteConfig


@dataclass(frozen=True)
class PaletteArgs:
    """Fit a palette to images (or look at one) and see what it keeps."""

    source: tyro.conf.Positional[str]
    """digits, folder:PATH, idx:PATH or tfds:NAME."""
    out: Path
    """Directory for palette.npy, swatch.png and before_after.png."""
    colors: int = 512
    """Palette entries V."""
    channels: int = 3
    """1 for grey, 3 for RGB."""
    size: tuple[int, int] = (32, 32)
    """Rows and columns the images are brought to."""
    images: int = 2000
    """Images whose pixels are fitted."""
    seed: int = 0
    load: Path | None = None
    """A palette .npy to look at instead of fitting one."""


def palette_command(args: list[str]) -> None:
    """igpt palette SOURCE --out DIR."""
    cli = parse(PaletteArgs, args, "palette")

    from igpt_jax import experiment
    from igpt_jax.palette import psnr
    from igpt_jax.viz import before_after, palette_swatch, save_png

    if (cli.out / "palette.npy").exists():
        raise InputError(f"--out {cli.out}: holds a palette.npy already; name another directory")
    if cli.channels not in (1, 3):
        raise InputError(f"--channels: 1 for grey or 3 for RGB, not {cli.channels}")
    cfg = Config(
        seed=cli.seed,
        model=ModelConfig(grid=cli.size, vocab_size=cli.colors),
        data=DataConfig(source=cli.source, channels=cli.channels),
        palette=PaletteConfig("file" if cli.load else "kmeans", str(cli.load) if cli.load else None, cli.images),
    )
    data = experiment.open_data(cfg)
    palette = experiment.make_palette(cfg, data)
    held_out = data.images(data.held_out, 256)
    seen = np.asarray(palette.decode(palette.encode(held_out)))
    palette.save(cli.out / "palette.npy")
    save_png(cli.out / "swatch.png", palette_swatch(palette))
    save_png(cli.out / "before_after.png", before_after(held_out[:16], seen[:16]))
    print(
        f"{palette.size} colours; reconstruction PSNR {psnr(held_out, seen):.2f} dB on {len(held_out)} held-out images"
    )
    for name in ("palette.npy", "swatch.png", "before_after.png"):
        print(cli.out / name)
