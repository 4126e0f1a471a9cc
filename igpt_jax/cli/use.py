"""igpt sample, complete and eval: what a trained model can do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from igpt_jax.cli.shared import check_output, parse, print_figures, write_result
from igpt_jax.config import InputError, SamplerConfig


@dataclass(frozen=True)
class SamplerArgs:
    """Where one is left out, the run's own setting holds."""

    temperature: float | None = None
    """Divides the logits; 0 takes the likeliest colour."""
    top_k: int | None = None
    """Keep the k likeliest colours."""
    top_p: float | None = None
    """Keep the smallest set of likeliest colours whose probability reaches p."""

    def over(self, run: SamplerConfig) -> dict[str, Any]:
        """The settings to sample with, checked."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return asdict(replace(run, **given))


@dataclass(frozen=True)
class SampleArgs:
    """Draw new images with a trained model."""

    workdir: Path
    """A workdir of igpt train."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many."""
    seed: int = 0
    """Image i of a seed is always the same."""
    batch_size: int = 64
    """Images decoded at once."""
    step: int | None = None
    """Checkpoint; by default the newest."""
    out: Path | None = None
    """.png for a grid or .npy for uint8 [n, Y, X, C]; by default WORKDIR/samples-seed<seed>.png."""
    sampler: Annotated[SamplerArgs, tyro.conf.arg(name="")] = field(default_factory=SamplerArgs)


def sample_command(args: list[str]) -> None:
    """igpt sample --workdir DIR."""
    cli = parse(SampleArgs, args, "sample")
    out = check_output(cli.out or cli.workdir / f"samples-seed{cli.seed}.png", (".png", ".npy"))

    from igpt_jax import sample
    from igpt_jax.training.checkpoint import load_workdir
    from igpt_jax.viz import image_grid

    found = load_workdir(cli.workdir, cli.step)
    settings = cli.sampler.over(found.config.sampler)
    images = sample(
        found.model, found.params, found.palette, cli.n, seed=cli.seed, batch_size=cli.batch_size, **settings
    )
    write_result(out, images, lambda: image_grid(images))


@dataclass(frozen=True)
class CompleteArgs:
    """Complete images of which a part is given: the top half, some rows, or all but a mask."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Picture files of any size; they are brought to the model's grid."""
    workdir: Path
    """A workdir of igpt train."""
    rows: int | None = None
    """Rows given, from the top; by default half of them."""
    mask: Path | None = None
    """A picture of the same shape, light where pixels are to be drawn anew, dark where they are given."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 4
    """Completions per image."""
    seed: int = 0
    """Completion j of image b is the same in any company."""
    batch_size: int = 64
    """Images decoded at once."""
    step: int | None = None
    """Checkpoint; by default the newest."""
    out: Path | None = None
    """.png for strips or .npy for uint8 [B, n, Y, X, C]; by default WORKDIR/completions-seed<seed>.png."""
    sampler: Annotated[SamplerArgs, tyro.conf.arg(name="")] = field(default_factory=SamplerArgs)


def complete_command(args: list[str]) -> None:
    """igpt complete IMAGE... --workdir DIR."""
    cli = parse(CompleteArgs, args, "complete")
    if not cli.images:
        raise InputError("complete: no image given")
    if cli.rows is not None and cli.mask is not None:
        raise InputError("complete: --rows and --mask both say what is given; take one")
    out = check_output(cli.out or cli.workdir / f"completions-seed{cli.seed}.png", (".png", ".npy"))

    from igpt_jax import complete, inputs
    from igpt_jax.training.checkpoint import load_workdir
    from igpt_jax.viz import completion_strips

    found = load_workdir(cli.workdir, cli.step)
    settings = cli.sampler.over(found.config.sampler)
    size = inputs.picture_size(found.config)
    if cli.rows is not None and not 0 <= cli.rows <= size[0]:
        raise InputError(f"--rows: {cli.rows} rows cannot be given, the model's images have {size[0]}")
    images = inputs.read_images(found.config, cli.images)
    if cli.mask is not None:
        known = inputs.read_mask(found.config, cli.mask)
    else:
        known = inputs.top_rows(size, cli.rows)
    completions = complete(
        found.model,
        found.params,
        found.palette,
        images,
        known,
        cli.n,
        seed=cli.seed,
        batch_size=cli.batch_size,
        **settings,
    )
    write_result(out, completions, lambda: completion_strips(images, known, completions, originals=images))


@dataclass(frozen=True)
class EvalArgs:
    """Held-out likelihood of a trained model beside two baselines."""

    workdir: Path
    """A workdir of igpt train."""
    step: int | None = None
    """Checkpoint; by default the newest."""


def eval_command(args: list[str]) -> None:
    """igpt eval --workdir DIR."""
    cli = parse(EvalArgs, args, "eval")

    from igpt_jax import experiment
    from igpt_jax.training.checkpoint import load_workdir

    print_figures(*experiment.held_out_figures(load_workdir(cli.workdir, cli.step)))
