"""The configuration of a run: frozen dataclasses, and the checks that need no data. `model_config` has the model's.

Every field can be set in an experiment file and on the command line (`--optim.lr 1e-3`). It is stored in the workdir
and in every checkpoint. JSON and the comparison of two configurations are in `config_json`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from igpt_jax.errors import check_fields, require
from igpt_jax.model_config import ModelConfig as ModelConfig
from igpt_jax.model_config import NotNegative, Positive
from igpt_jax.rules import RuleSettings


@dataclass(frozen=True)
class ComputeConfig:
    """How the same function is computed. A checkpoint fits any of these choices."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of activations and products. Parameters, norms, softmax, logits and loss stay float32. auto: float32 on
    CPU, else bfloat16."""
    attention: str = "auto"
    """Attention backend: auto, reference, chunked (CPU), cudnn (NVIDIA GPU), splash (TPU), or one of your own. auto
    takes the platform's kernel if it can serve, else chunked or reference."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes: nothing, all but the matrix products, or whole blocks."""
    scan_layers: bool | Literal["auto"] = "auto"
    """True: compile one block and loop over the layers, which is quick to compile. False: unroll all layers, which
    saves memory traffic. auto: unroll on GPUs, and up to 8 layers on CPUs."""
    forward_mode: bool = False
    """Allow forward-mode derivatives of the model (`jax.jvp`, `jax.hessian`): norm, activation and attention are then
    plain functions, and a training step keeps more memory. Without it they have backward passes of their own."""
    workers: NotNegative = 0
    """Processes that prepare images; 0 prepares them on threads of the main process."""

    def __post_init__(self) -> None:
        check_fields(self, "compute.")


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, in batches of which size, and what is done to them on the host."""

    source: str = "digits"
    """`digits` (scikit-learn), `folder:PATH`, `idx:PATH` (MNIST format), `tfds:NAME`, `tokens:PREFIX` (tokenised
    images of the release), clips of `moving_digits` or `clips:PATH`, or a source of your own. A run stores the
    absolute path."""
    batch_size: Positive = 128
    """Images per optimizer step over all processes."""
    train_split: str = "train"
    """Split to train on (tfds split syntax; idx file prefix)."""
    eval_split: str = "test"
    """Held-out split (tfds split syntax; idx file prefix; `test` also accepts idx files named `t10k`)."""
    holdout: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    """Share of a folder's images that is held out for evaluation, chosen by file name."""
    validation: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of the training images that is set aside, so that nothing is chosen on held-out images: evaluation while
    training then measures these, and `igpt eval` the held-out ones. The paper takes 0.04 of ImageNet (section 3.1)."""
    group: str = ""
    """A regular expression. Files whose names are alike without what it matches go to the same side when a share is
    held out or set aside: variants of one picture must not be in both. For emoji with skin tones:
    `-(1f3f[b-f]|fe0f)`."""
    max_unreadable: Annotated[float, Interval(ge=0, le=1)] = 0.01
    """Largest share of a folder's images that may be unreadable and skipped before the run stops. It may change when a
    run continues."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    frame_step: Positive = 1
    """For clips: read every n-th frame."""

    denoise: Literal["none", "tv", "bilateral", "nlmeans", "wavelet"] = "none"
    """Denoiser, run on the full-size picture (scikit-image)."""
    enhance: Literal["none", "stretch", "equalize", "clahe"] = "none"
    """Contrast enhancement after denoising (scikit-image)."""
    augment: Literal["none", "shift", "cifar", "imagenet", "crop"] = "none"
    """Geometry while training. cifar: reflect-pad by 4 and crop. imagenet: shorter side 256-384, 224 crop, downsample.
    shift: half of the images move by up to `shift` pixels, edges repeated. crop: a part of the grid's size at the
    picture's own resolution, for models that repair large pictures. none: centre square, resized to the grid."""
    resample: Literal["box", "bilinear", "hamming", "bicubic", "lanczos"] = "hamming"
    """The filter of Pillow that brings pictures to the grid. The paper does not name its own, and losses depend on it:
    of 32 x 32 crops at 32 x 32, bilinear changes a quarter of the tokens that hamming gives."""
    shift: NotNegative = 1
    """Largest move in pixels when `augment` is shift."""
    flip: bool = False
    """Mirror half of the training images left to right."""
    degrade: tuple[str, ...] = ()
    """Degradations for objective restore, applied last; one of these is drawn for each picture. `KIND`,
    `KIND:STRENGTH` or `KIND:LOW-HIGH`, joined by + where several follow each other: `blur:1+gaussian:0.1`. Kinds are
    gaussian, poisson, salt_pepper, blur, jpeg, downsample, scratches, stains and grey."""

    def __post_init__(self) -> None:
        check_fields(self, "data.")


@dataclass(frozen=True)
class PaletteConfig:
    """Where the V colours come from (V is model.vocab_size)."""

    kind: Literal["kmeans", "levels", "file", "pretrained"] = "kmeans"
    """kmeans: that of the weights in init_from if they have one, else fitted to the training images. levels: V evenly
    spaced greys. file: read from `path`. pretrained: that of the weights in init_from, which must have one."""
    path: str | None = None
    """A .npy of shape [V, channels] in [-1, 1], as the release's kmeans_centers.npy."""
    fit_images: Positive = 2000
    """Images whose pixels the k-means fit uses."""

    def __post_init__(self) -> None:
        check_fields(self, "palette.")
        require(bool(self.path) or self.kind != "file", "palette.path", "palette.kind is file, so name a .npy")
        require(not self.path or self.kind == "file", "palette.path", f"is not read when palette.kind is {self.kind}")


Share = Annotated[float, Interval(ge=0, lt=math.inf)]


@dataclass(frozen=True)
class OrdersConfig:
    """For objective any_order: in which shares training images are read in which orders. They need not sum to 1."""

    raster: Share = 0.25
    """Row by row."""
    masked: Share = 0.5
    """All that is outside a random hole, then the hole, both row by row. Holes are boxes, half-planes, brush strokes
    and scattered positions; of clips, whole frames, too."""
    random: Share = 0.25
    """Any order."""

    def __post_init__(self) -> None:
        check_fields(self, "orders.")
        require(self.raster + self.masked + self.random > 0, "orders", "one of the shares must be above 0")


@dataclass(frozen=True)
class OptimConfig:
    """Adam as in the paper's appendix A.1: no decay, linear warm-up, cosine to zero."""

    lr: Annotated[float, Interval(gt=0, lt=math.inf)] = 3e-3
    """Peak learning rate."""
    warmup_steps: NotNegative = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    b1: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    b2: Annotated[float, Interval(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Interval(gt=0, lt=math.inf)] = 1e-8
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled decay of the projections in the blocks. Norms, embeddings, head and start vector are not decayed."""
    clip_norm: Annotated[float | None, Gt(0)] = None
    """Scale the gradient down to this global norm."""
    ema_decay: Annotated[float | None, Interval(gt=0, lt=1)] = None
    """Keep an exponential moving average of the weights; evaluation and sampling then use it."""

    def __post_init__(self) -> None:
        check_fields(self, "optim.")


@dataclass(frozen=True)
class TrainConfig:
    """How long a run is, and how often it logs, evaluates and saves."""

    steps: Positive = 1_000_000
    """Optimizer steps."""
    microbatches: Positive = 1
    """Gradient accumulation: the batch is processed in this many equal parts."""
    log_every: Positive = 50
    """Steps between lines in metrics.jsonl."""
    eval_every: Positive = 1000
    checkpoint_every: Positive = 1000
    keep: Positive = 2
    """Newest checkpoints that are kept."""
    draft_steps: NotNegative = 200
    """Batches, at most `steps`, from which a small network learns after training to guess colours while drawing
    (speculative decoding): `draft.npz` in the workdir. 0: none. Images are the same, drawn in more time."""
    best: str = ""
    """loss for the nats per (masked) token, or another figure of the evaluation, as accuracy: the weights with the best
    one are kept in WORKDIR/best. So that nothing is chosen on held-out images, set data.validation."""
    patience: NotNegative = 0
    """Early stopping: stop after this many evaluations without improvement of train.best; 0 disables."""
    sample_every: NotNegative = 0
    """Steps between pictures written while training; 0 for none."""
    watchdog_s: Annotated[float, Gt(0)] = 3600.0
    """End the run after this many seconds without progress. Set it longer than the longest step, evaluation or save."""
    eval_batch_size: Positive = 128
    eval_images: Annotated[int | None, Ge(1)] = None
    """Held-out images to evaluate on while training, spread evenly; None takes all. `igpt eval` always takes all."""
    eval_orders: Annotated[int, Ge(2)] = 4
    """For objective any_order: random orders in which every held-out image is measured."""

    def __post_init__(self) -> None:
        check_fields(self, "train.")
        require(bool(self.best) or not self.patience, "train.patience", "name the figure that it waits for: train.best")


BATCH_AXES = ("data", "fsdp")
"""The mesh axes that split a batch."""


@dataclass(frozen=True)
class MeshConfig:
    """How many ways each mesh axis splits; -1 takes the devices that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        for name, n in sizes.items():
            require(n == -1 or n >= 1, f"mesh.{name}", f"must be -1 or at least 1, not {n}")
        require(list(sizes.values()).count(-1) <= 1, "mesh", f"only one axis may be -1, not {sizes}")


Task = Literal["sample", "complete", "inpaint", "restore", "clips"]
"""What a sampler is asked for. clips: new ones, and clips that go on."""


@dataclass(frozen=True)
class SamplerConfig(RuleSettings):
    """How images are drawn. The rules by which a colour is drawn are those of `igpt_jax.rules`."""

    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 0
    """Image i of a seed is always the same."""
    order: str = "raster"
    """In which order positions are drawn: raster, known_first, outside_in, random, or an order of your own. Any but
    raster needs model.any_order."""
    batch_size: Positive = 64
    """Images decoded at once. It does not change the images."""
    lookahead: Annotated[int | Literal["auto"], Ge(0)] = "auto"
    """Speculative decoding window: guess this many pixels, verify them in one pass, keep the correct prefix. The
    samples are identical in float32. auto: where it is faster (`window_for` has the rule); 0: off."""
    cache: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """Type of the cached keys and values; auto: that of activations. int8 (one scale for each slot and head) takes half
    the memory of bfloat16. A smaller type than that of activations rounds, so images differ; on CPUs it is slower."""
    method: str = "auto"
    """How holes are inpainted: any_order, smc, clamp, ardm, unmask, or auto for the best that the model can do."""
    particles: Positive = 32
    """For smc: completions of each picture that are drawn side by side."""
    passes: Annotated[int | None, Ge(1)] = None
    """For ardm and unmask: passes of the model; None for one per unknown pixel (ardm), or 8 (unmask)."""

    def __post_init__(self) -> None:
        check_fields(self, "sampler.")


@dataclass(frozen=True)
class ProbeConfig:
    """Which classifiers a probe fits to a model's features (paper section 4), and to how many images."""

    layers: tuple[int, ...] | None = None
    """Which layers: 0 is what the first block reads, the last what the output head reads. By default all."""
    method: Literal["lbfgs", "sgd"] = "lbfgs"
    """lbfgs: logistic regression in scikit-learn, for sets up to some 100,000 images. sgd: the same model by gradient
    descent on the accelerator, as the paper does on ImageNet."""
    sgd_steps: Positive = 20_000
    """Steps of 256 images for the method sgd; the paper takes 1,000,000."""
    together: NotNegative = 0
    """Also probe the concatenation of this many layers around the best one; the paper takes 5 (section 4.4)."""
    per_class: tuple[int, ...] = ()
    """Low-label probes of the best layer: labels per class; the paper takes 4 25 400 (section 4.7)."""
    subsets: Positive = 5
    """Random subsets for each number of per_class."""
    train_images: Annotated[int | None, Ge(1)] = None
    """At most this many training images, spread evenly."""
    others: tuple[Literal["neighbours", "support_vectors", "trees"], ...] = ("neighbours", "support_vectors", "trees")
    """Classifiers that are not linear, of pixels and of the features of the best layer."""
    attentive: bool = False
    """Also an attentive probe of the best layer: it learns how to weigh the slots, instead of averaging them."""

    def __post_init__(self) -> None:
        check_fields(self, "probe.")
        for count in self.per_class:
            require(count >= 1, "probe.per_class", f"must be at least 1, not {count}")


@dataclass(frozen=True)
class Config:
    """One run. `config_json.FIXED` says which sections decide what is computed, and so may not change on resume."""

    name: str = "igpt"
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 0
    objective: str = "ar"
    """ar: next-pixel prediction in raster order. bert: prediction of masked pixels (both paper section 2.1). joint: ar
    or bert, as model.causal says, plus classification (section 2.3). any_order: next-pixel prediction in many orders.
    ardm: prediction of masked pixels at every mask rate. restore: the clean picture from a degraded one (data.degrade).
    Or an objective of your own."""
    class_dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of the training images whose class a class-conditional model (model.cond_classes) is not told, so that it
    can draw without one, and with guidance."""
    init_from: str | None = None
    """Weights to start from instead of random ones: a workdir, an OpenAI checkpoint, a Hugging Face directory or Hub
    name. A classification head, a class table, biases and position tables that are missing there start at zero. The
    parameters that read a degraded picture (model.prefix_slots) start at random: with them the model does not compute
    the same as before, even at first."""
    init_grid: Literal["same", "interpolate"] = "same"
    """Which grid the weights in init_from may be of. same: model.grid. interpolate: another number of rows and columns,
    too; their position tables are then resized to model.grid."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    palette: PaletteConfig = field(default_factory=PaletteConfig)
    orders: OrdersConfig = field(default_factory=OrdersConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        check_fields(self, "")
        palette, size, parts = self.palette.kind, self.data.batch_size, self.train.microbatches
        grey = "levels are greys: set data.channels to 1, or take a kmeans palette"
        require(palette != "levels" or self.data.channels == 1, "palette.kind", grey)
        if self.init_from is None:
            same = "interpolate resizes the position tables of the weights in init_from; set that too"
            require(self.init_grid == "same", "init_grid", same)
            pretrained = "pretrained is the palette of the weights in init_from; set that too"
            require(palette != "pretrained", "palette.kind", pretrained)
        require(size % parts == 0, "train.microbatches", f"{parts} does not divide data.batch_size = {size}")
        warmup = f"{self.optim.warmup_steps} is not below train.steps = {self.train.steps}"
        require(self.optim.warmup_steps < self.train.steps, "optim.warmup_steps", warmup)
