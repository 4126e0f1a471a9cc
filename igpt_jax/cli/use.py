"""igpt sample, complete and eval: what a trained model can do."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from igpt_jax.cli.shared import check_output, parse, print_figures, write_result
from igpt_jax.config import InputError, MeshConfig, SamplerConfig
from igpt_jax.config_json import to_json
from igpt_jax.parallel.multihost import require_same, together

if TYPE_CHECKING:
    from igpt_jax.training.pretrained import Pretrained


@dataclass(frozen=True)
class ModelArgs:
    """Which weights to use."""

    model: Annotated[str, tyro.conf.arg(aliases=["--workdir"])]
    """A workdir of igpt train, an OpenAI checkpoint (its prefix), a Hugging Face directory, or a Hub name."""
    step: int | None = None
    """Checkpoint of a workdir; by default the newest."""
    palette: Path | None = None
    """A palette .npy, for weights that come without one."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Where the weights lie: by default whole on every device, and the images are shared out among them."""

    def load(self) -> Pretrained:
        """The weights and what belongs to them."""
        from igpt_jax.interop.load import load_pretrained
        from igpt_jax.parallel.mesh import make_mesh

        found = load_pretrained(self.model, step=self.step, palette=self.palette, mesh=make_mesh(self.mesh))
        centers = None if found.palette is None else found.palette.centers.tolist()
        require_same(f"what --model {self.model} holds", f"{to_json(found.config)} {found.step} {centers}")
        return found

    def beside(self, name: str) -> Path:
        """Where a result goes that was not named: into the workdir, or here."""
        workdir = Path(self.model)
        return workdir / name if (workdir / "checkpoints").is_dir() else Path(name)


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

    weights: Annotated[ModelArgs, tyro.conf.arg(name="")]
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many."""
    classes: tuple[int, ...] | None = None
    """For a class-conditional model: the classes to draw, taken in turn; by default none in particular."""
    seed: int = 0
    """Image i of a seed is always the same."""
    batch_size: int = 64
    """Images decoded at once."""
    out: Path | None = None
    """.png for a grid or .npy for uint8 [n, Y, X, C]; by default samples-seed<seed>.png in the workdir."""
    sampler: Annotated[SamplerArgs, tyro.conf.arg(name="")] = field(default_factory=SamplerArgs)


def sample_command(args: list[str]) -> None:
    """igpt sample --model MODEL."""
    cli = parse(SampleArgs, args, "sample")
    out = check_output(cli.out or cli.weights.beside(f"samples-seed{cli.seed}.png"), (".png", ".npy"))

    from igpt_jax import sample
    from igpt_jax.viz import image_grid

    found = cli.weights.load()
    settings = cli.sampler.over(found.config.sampler)
    classes = None if cli.classes is None else [cli.classes[i % len(cli.classes)] for i in range(cli.n)]
    images = sample(
        found.model,
        found.params,
        found.colors,
        cli.n,
        classes=classes,
        seed=cli.seed,
        batch_size=cli.batch_size,
        **settings,
    )
    write_result(out, images, lambda: image_grid(images))


@dataclass(frozen=True)
class CompleteArgs:
    """Complete images of which a part is given: the top half, some rows, or all but a mask."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Picture files of any size; they are brought to the model's grid."""
    weights: Annotated[ModelArgs, tyro.conf.arg(name="")]
    rows: int | None = None
    """Rows given, from the top; by default half of them."""
    mask: Path | None = None
    """A picture of the same shape, light where pixels are to be drawn anew, dark where they are given."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 4
    """Completions per image."""
    class_id: int | None = None
    """For a class-conditional model: the class of the images."""
    seed: int = 0
    """Completion j of image b is the same in any company."""
    batch_size: int = 64
    """Images decoded at once."""
    out: Path | None = None
    """.png for strips or .npy for uint8 [B, n, Y, X, C]; by default completions-seed<seed>.png in the workdir."""
    sampler: Annotated[SamplerArgs, tyro.conf.arg(name="")] = field(default_factory=SamplerArgs)


def complete_command(args: list[str]) -> None:
    """igpt complete IMAGE... --model MODEL."""
    cli = parse(CompleteArgs, args, "complete")
    if not cli.images:
        raise InputError("complete: no image given")
    if cli.rows is not None and cli.mask is not None:
        raise InputError("complete: --rows and --mask both say what is given; take one")
    out = check_output(cli.out or cli.weights.beside(f"completions-seed{cli.seed}.png"), (".png", ".npy"))

    from igpt_jax import complete, inputs
    from igpt_jax.sampling.sampler import top_rows
    from igpt_jax.viz import completion_strips

    found = cli.weights.load()
    settings = cli.sampler.over(found.config.sampler)
    size = inputs.picture_size(found.config)
    if cli.rows is not None and not 0 <= cli.rows <= size[0]:
        raise InputError(f"--rows: {cli.rows} rows cannot be given, the model's images have {size[0]}")
    with together():
        images = inputs.read_images(found.config, cli.images)
        known = top_rows(size, cli.rows) if cli.mask is None else inputs.read_mask(found.config, cli.mask)
    require_same("the images", hashlib.sha256(images.tobytes() + known.tobytes()).hexdigest())
    completions = complete(
        found.model,
        found.params,
        found.colors,
        images,
        known,
        cli.n,
        classes=cli.class_id,
        seed=cli.seed,
        batch_size=cli.batch_size,
        **settings,
    )
    write_result(out, completions, lambda: completion_strips(images, known, completions, originals=images))


@dataclass(frozen=True)
class EvalArgs:
    """Held-out likelihood of a trained model beside two baselines."""

    weights: Annotated[ModelArgs, tyro.conf.arg(name="")]
    source: str | None = None
    """Images to measure on (folder:PATH, idx:PATH, tfds:NAME); by default the held-out half of the run's own."""


def eval_command(args: list[str]) -> None:
    """igpt eval --model MODEL [--source SOURCE]."""
    cli = parse(EvalArgs, args, "eval")

    from igpt_jax.figures import held_out_figures

    found = cli.weights.load()
    if cli.source is not None:
        data = replace(found.config.data, source=cli.source)
        found = replace(found, config=replace(found.config, data=data))
    elif not found.data:
        raise InputError(f"eval: {cli.weights.model} is not a run with images of its own; name some with --source")
    print_figures(held_out_figures(found))
