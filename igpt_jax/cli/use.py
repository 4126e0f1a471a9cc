"""igpt sample, complete and eval: what a trained model can do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from igpt_jax.cli.shared import parse, print_figures, write_result
from igpt_jax.config import MeshConfig, SamplerConfig
from igpt_jax.config_json import to_json
from igpt_jax.errors import InputError
from igpt_jax.parallel.processes import raise_on_all, require_same

if TYPE_CHECKING:
    from igpt_jax.pretrained import Pretrained


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
    """Where the weights lie: by default whole on every device, and the images are split over the devices."""

    def load(self) -> Pretrained:
        """The weights and what belongs to them."""
        from igpt_jax.parallel.mesh import make_mesh
        from igpt_jax.weights.load import load_pretrained

        weights = load_pretrained(self.model, step=self.step, palette=self.palette, mesh=make_mesh(self.mesh))
        centers = weights.palette and weights.palette.centers.tolist()
        require_same(f"what --model {self.model} holds", f"{to_json(weights.config)} {weights.step} {centers}")
        return weights

    def result_path(self, out: Path | None, name: str) -> Path:
        """`out`, or else `name` in the workdir or the current directory. InputError if it is not .png or .npy."""
        workdir = Path(self.model)
        path = out or (workdir / name if (workdir / "checkpoints").is_dir() else Path(name))
        if path.suffix not in (".png", ".npy"):
            raise InputError(f"--out {path}: must end in .png or .npy")
        return path


@dataclass(frozen=True)
class SamplerArgs:
    """How images are drawn. An option that is left out has the run's own setting."""

    seed: int = 0
    """Image i of a seed is always the same."""
    temperature: float | None = None
    """Divides the logits; 0 takes the most likely colour."""
    top_k: int | None = None
    """Keep the k most likely colours."""
    top_p: float | None = None
    """Keep the smallest set of most likely colours whose probability reaches p."""
    order: str | None = None
    """raster, known_first or random; any but raster needs a model trained for it (model.any_order)."""
    batch_size: int | None = None
    """Images decoded at once."""

    def over(self, run: SamplerConfig) -> SamplerConfig:
        """The run's settings with these in their place."""
        return replace(run, **{name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class SampleArgs:
    """Draw new images with a trained model."""

    weights: Annotated[ModelArgs, tyro.conf.arg(name="")]
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many."""
    classes: tuple[int, ...] | None = None
    """For a class-conditional model: the classes to draw, in turn; by default no class."""
    out: Path | None = None
    """.png for a grid or .npy for uint8 [n, Y, X, C]; by default samples-seed<seed>.png in the workdir."""
    sampler: Annotated[SamplerArgs, tyro.conf.arg(name="")] = field(default_factory=SamplerArgs)


def sample_command(args: list[str]) -> None:
    """igpt sample --model MODEL."""
    cli = parse(SampleArgs, args, "sample")
    out = cli.weights.result_path(cli.out, f"samples-seed{cli.sampler.seed}.png")

    from igpt_jax import sample
    from igpt_jax.viz import image_grid

    weights = cli.weights.load()
    sampler = cli.sampler.over(weights.config.sampler)
    classes = [cli.classes[i % len(cli.classes)] for i in range(cli.n)] if cli.classes else None
    images = sample(weights.model, weights.params, weights.colors, cli.n, sampler=sampler, classes=classes)
    write_result(out, images, lambda: image_grid(images))


@dataclass(frozen=True)
class CompleteArgs:
    """Complete images of which a part is known: the top half, some rows, or all but a mask."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Picture files of any size; they are brought to the model's grid."""
    weights: Annotated[ModelArgs, tyro.conf.arg(name="")]
    rows: int | None = None
    """Known rows, from the top; by default half of them."""
    mask: Path | None = None
    """A picture of the same shape: light where pixels are to be drawn, dark where they are known."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 4
    """Completions per image."""
    class_id: int | None = None
    """For a class-conditional model: the class of the images."""
    out: Path | None = None
    """.png for strips or .npy for uint8 [B, n, Y, X, C]; by default completions-seed<seed>.png in the workdir."""
    sampler: Annotated[SamplerArgs, tyro.conf.arg(name="")] = field(default_factory=SamplerArgs)


def complete_command(args: list[str]) -> None:
    """igpt complete IMAGE... --model MODEL."""
    cli = parse(CompleteArgs, args, "complete")
    if not cli.images:
        raise InputError("complete: no image named")
    if cli.rows is not None and cli.mask is not None:
        raise InputError("complete: --rows and --mask both say which pixels are known; take one")
    out = cli.weights.result_path(cli.out, f"completions-seed{cli.sampler.seed}.png")

    from igpt_jax import complete
    from igpt_jax.data.reading import load_image
    from igpt_jax.data.transforms import fit
    from igpt_jax.datasets import picture_size, preprocess_for_eval
    from igpt_jax.sampling.tasks import top_rows
    from igpt_jax.viz import completion_strips

    weights = cli.weights.load()
    cfg, size = weights.config, picture_size(weights.config)
    if cli.rows is not None and not 0 <= cli.rows <= size[0]:
        raise InputError(f"--rows: {cli.rows} rows cannot be known, the model's images have {size[0]}")
    with raise_on_all():
        images = preprocess_for_eval(cfg, [load_image(path, cfg.data.channels) for path in cli.images])
        known = fit(load_image(cli.mask, 1), size)[..., 0] < 128 if cli.mask else top_rows(size, cli.rows)
    require_same("the images", hashlib.sha256(images.tobytes() + known.tobytes()).hexdigest())
    sampler = cli.sampler.over(cfg.sampler)
    completions = complete(
        weights.model, weights.params, weights.colors, images, known, cli.n, sampler=sampler, classes=cli.class_id
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

    from igpt_jax.run import evaluate

    weights = cli.weights.load()
    if cli.source is not None:
        data = replace(weights.config.data, source=cli.source)
        weights = replace(weights, config=replace(weights.config, data=data))
    elif not weights.data:
        raise InputError(f"eval: {cli.weights.model} is not a run with images of its own; name some with --source")
    print_figures(evaluate(weights))
