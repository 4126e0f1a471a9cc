"""igpt palette: fit a palette, or look at one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from igpt_jax.cli.shared import parse
from igpt_jax.config import Config, DataConfig, ModelConfig
from igpt_jax.errors import InputError


@dataclass(frozen=True)
class PaletteArgs:
    """Fit a palette to images (or look at one) and see what it keeps."""

    source: tyro.conf.Positional[str]
    """digits, folder:PATH, idx:PATH or tfds:NAME."""
    out: Path
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
    load: Path | None = None
    """A palette .npy to look at instead of fitting one."""


def palette_command(args: list[str]) -> None:
    """igpt palette SOURCE --out DIR."""
    cli = parse(PaletteArgs, args, "palette")

    from igpt_jax.datasets import open_data
    from igpt_jax.evaluation.quality import psnr
    from igpt_jax.palette import Palette
    from igpt_jax.viz import before_after, palette_swatch, save_png

    if (cli.out / "palette.npy").exists():
        raise InputError(f"--out {cli.out}: holds a palette.npy already; name another directory")
    if file := next((path for path in (cli.out, *cli.out.parents) if path.is_file()), None):
        raise InputError(f"--out {cli.out}: {file} is a file; name a directory")
    palette = Palette.load(cli.load) if cli.load else None
    settings = DataConfig(source=cli.source, channels=palette.channels if palette else cli.channels)
    data = open_data(Config(seed=cli.seed, model=ModelConfig(grid=cli.size, vocab_size=cli.colors), data=settings))
    palette = palette or Palette.fit(data.images(data.train, cli.images), cli.colors, cli.seed)
    held_out = data.images(data.held_out, 256)
    decoded = np.asarray(palette.decode(palette.encode(held_out)))
    try:
        palette.save(cli.out / "palette.npy")
        save_png(cli.out / "swatch.png", palette_swatch(palette))
        save_png(cli.out / "before_after.png", before_after(held_out[:16], decoded[:16]))
    except OSError as error:
        raise InputError(f"--out {cli.out}: {error.strerror}") from None
    quality = f"reconstruction PSNR {psnr(held_out, decoded):.2f} dB on {len(held_out)} held-out images"
    print(f"{palette.size} colours; {quality}")
    print(*(cli.out / name for name in ("palette.npy", "swatch.png", "before_after.png")), sep="\n")
