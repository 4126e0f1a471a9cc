"""What a run is: frozen dataclasses, the paper's model sizes, validation and JSON.

Every field here can be set in an experiment file, on the command line (`--optim.lr 1e-3`) and is written to the
workdir and into every checkpoint. It imports the standard library alone; JSON and comparison are in `config_json`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from igpt_jax.validation import InputError, check_choices, nearest, require

__all__ = [
    "PRESETS",
    "Config",
    "DataConfig",
    "InputError",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "PaletteConfig",
    "SamplerConfig",
    "TrainConfig",
    "nearest",
]


@dataclass(frozen=True)
class ModelConfig:
    """The decoder of Image GPT (paper section 2.2; `src/model.py` of the release).

    The second group of fields decides how the same function is computed; a checkpoint fits any choice of them.
    """

    grid: tuple[int, ...] = (32, 32)
    """Tokens as rows and columns; their product is the context length T."""
    vocab_size: int = 512
    """Palette entries V."""
    n_layer: int = 24
    n_head: int = 8
    d_model: int = 512
    """Width D; the feed-forward layer is 4 D wide."""
    causal: bool = True
    """True: each token is predicted from those before it, beginning with a start vector (autoregressive). False: every
    token sees every other, and there is no start vector (BERT)."""
    use_bias: bool = False
    """Biases in the projections. The release has none; models fine-tuned with Hugging Face may."""
    clf_classes: int = 0
    """Classes of the classification head; 0 for none."""
    cond_classes: int = 0
    """Classes whose vectors are added to the start vector, so that a class can be asked for; 0 for none."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type. Parameters, norms, softmax, logits and loss stay float32. auto: float32 on CPU, else bfloat16."""
    attention: Literal["auto", "reference", "chunked", "cudnn", "splash"] = "auto"
    """Attention implementation (igpt_jax.model.attention). cudnn: NVIDIA GPUs. splash: TPUs. auto: the platform's own
    where that can serve, else chunked or reference."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes: nothing, all but the matrix products, or each whole block."""
    scan_layers: bool = True
    """One compiled block looped over the layers (fast to compile) or all layers unrolled."""

    def __post_init__(self) -> None:
        check_choices(self, "model.")
        object.__setattr__(self, "grid", tuple(self.grid))
        require(len(self.grid) >= 1 and all(n >= 1 for n in self.grid), "model.grid", f"{self.grid} is no token grid")
        for name in ("vocab_size", "n_layer", "n_head", "d_model"):
            require(getattr(self, name) >= 1, f"model.{name}", f"must be at least 1, not {getattr(self, name)}")
        require(
            self.d_model % self.n_head == 0,
            "model.n_head",
            f"{self.n_head} heads do not divide model.d_model = {self.d_model}",
        )
        for name in ("clf_classes", "cond_classes"):
            require(getattr(self, name) >= 0, f"model.{name}", f"must not be negative, not {getattr(self, name)}")
        require(
            self.causal or not self.cond_classes, "model.cond_classes", "needs model.causal: BERT has no start vector"
        )

    @property
    def n_ctx(self) -> int:
        """Tokens per image, T."""
        return math.prod(self.grid)

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_head

    @property
    def n_params(self) -> int:
        """Exact parameter count: wpe, wte and wtet, ln_f, sos, classes, and 12 D^2 + 2 D (+ 9 D biases) a layer."""
        d = self.d_model
        rows = self.n_ctx + 2 * self.vocab_size + 1 + self.causal + self.clf_classes + self.cond_classes
        return rows * d + self.n_layer * (12 * d * d + (11 if self.use_bias else 2) * d)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> ModelConfig:
        """A published size ('s', 'm', 'l', 'xl'; paper section 3.3) or 'tiny', with fields replaced at will.

        The paper does not say how many heads XL has; 16 gives it a head size of 192.

        Raises:
          InputError: no such preset or field.
        """
        require(name in PRESETS, "preset", f"no preset {name!r}; there are {', '.join(PRESETS)}")
        fields = {f.name for f in dataclasses.fields(cls)}
        for key in overrides:
            require(key in fields, f"model.{key}", "no such field" + nearest(key, fields))
        return cls(**(PRESETS[name] | overrides))


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": dict(grid=(8, 8), vocab_size=16, n_layer=2, n_head=2, d_model=32),
    "s": dict(n_layer=24, n_head=8, d_model=512),
    "m": dict(n_layer=36, n_head=8, d_model=1024),
    "l": dict(n_layer=48, n_head=16, d_model=1536),
    "xl": dict(n_layer=60, n_head=16, d_model=3072, grid=(64, 64)),
}


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and what is done to them on the host before they become tokens on the device."""

    source: str = "digits"
    """`digits` (scikit-learn), `folder:PATH`, `idx:PATH` (MNIST format) or `tfds:NAME`."""
    train_split: str = "train"
    """Split to learn from (tfds split syntax; idx file prefix)."""
    eval_split: str = "test"
    """Held-out split (tfds split syntax; idx file prefix `t10k` is found under `test`)."""
    holdout: float = 0.05
    """Share of a folder's images held out for evaluation, chosen by file name."""
    max_unreadable: float = 0.01
    """Largest share of a folder's images that may be unreadable and skipped before the run stops."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""

    denoise: Literal["none", "tv", "bilateral", "nlmeans", "wavelet"] = "none"
    """Denoiser run on the full-size picture (scikit-image)."""
    enhance: Literal["none", "stretch", "equalize", "clahe"] = "none"
    """Contrast enhancement after denoising (scikit-image)."""
    augment: Literal["none", "shift", "cifar", "imagenet"] = "none"
    """Geometry while training. cifar: reflect-pad by 4 and crop. imagenet: shorter side 256-384, 224 crop, downsample.
    shift: half of the images move by up to `shift` pixels, edges repeated. none: centre square, resized to the grid."""
    shift: int = 1
    """Largest move in pixels when `augment` is shift."""
    flip: bool = False
    """Mirror half of the training images left to right."""

    workers: int = 0
    """Worker processes that prepare images; 0 prepares them on threads of this process."""

    def __post_init__(self) -> None:
        check_choices(self, "data.")
        require(0 < self.holdout < 1, "data.holdout", f"must lie between 0 and 1, not {self.holdout}")
        require(0 <= self.max_unreadable <= 1, "data.max_unreadable", f"must lie in [0, 1], not {self.max_unreadable}")
        require(self.shift >= 0, "data.shift", f"must not be negative, not {self.shift}")
        require(self.workers >= 0, "data.workers", f"must not be negative, not {self.workers}")


@dataclass(frozen=True)
class PaletteConfig:
    """Where the V colours come from (V is model.vocab_size)."""

    kind: Literal["kmeans", "levels", "file", "pretrained"] = "kmeans"
    """kmeans: fitted on the training images. levels: V evenly spaced greys. file: read from `path`. pretrained: that of
    the weights in train.init_from."""
    path: str | None = None
    """A .npy of shape [V, channels] in [-1, 1], as the release's kmeans_centers.npy."""
    fit_images: int = 2000
    """Images whose pixels the k-means fit sees."""

    def __post_init__(self) -> None:
        check_choices(self, "palette.")
        given = bool(self.path)
        require(given or self.kind != "file", "palette.path", "palette.kind is file, so a .npy must be named")
        require(not given or self.kind == "file", "palette.path", f"is not read when palette.kind is {self.kind}")
        require(self.fit_images >= 1, "palette.fit_images", f"must be at least 1, not {self.fit_images}")


@dataclass(frozen=True)
class OptimConfig:
    """Adam as in the paper's appendix A.1: no decay, linear warm-up, cosine to zero."""

    lr: float = 3e-3
    """Peak learning rate."""
    warmup_steps: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Decoupled decay of the projections in the blocks; norms, embeddings, head and sos are left alone."""
    clip_norm: float | None = None
    """Scale the gradient down to this global norm."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights; evaluation and sampling then use it."""

    def __post_init__(self) -> None:
        check_choices(self, "optim.")
        require(0 < self.lr < math.inf, "optim.lr", f"must be positive and finite, not {self.lr}")
        require(0 < self.eps < math.inf, "optim.eps", f"must be positive and finite, not {self.eps}")
        require(self.warmup_steps >= 0, "optim.warmup_steps", f"must not be negative, not {self.warmup_steps}")
        for name in ("b1", "b2"):
            require(0 <= getattr(self, name) < 1, f"optim.{name}", f"must lie in [0, 1), not {getattr(self, name)}")
        require(self.weight_decay >= 0, "optim.weight_decay", f"must not be negative, not {self.weight_decay}")
        require(
            self.clip_norm is None or self.clip_norm > 0, "optim.clip_norm", f"must be positive, not {self.clip_norm}"
        )
        require(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            "optim.ema_decay",
            f"must lie in (0, 1), not {self.ema_decay}",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and what happens how often on the way."""

    init_from: str | None = None
    """Weights to begin with instead of random ones: a workdir, an OpenAI checkpoint, a Hugging Face directory or Hub
    name. Only a classification head, a class table and biases may be missing there; they begin at zero."""
    steps: int = 1_000_000
    """Optimizer steps."""
    batch_size: int = 128
    """Images per optimizer step over all processes."""
    microbatches: int = 1
    """Gradient accumulation: the batch is worked through in this many equal parts."""
    log_every: int = 50
    """Steps between lines in metrics.jsonl."""
    eval_every: int = 1000
    checkpoint_every: int = 1000
    keep: int = 2
    """Newest checkpoints kept."""
    sample_every: int = 0
    """Steps between sample grids written while training; 0 for none."""
    watchdog_s: float = 3600.0
    """End a run that hangs: seconds without a step, an evaluation or a save. Longer than the longest of them takes."""
    eval_batch_size: int = 128
    eval_images: int | None = None
    """Look at this many held-out images, spread evenly, while training; by default at all. `igpt eval` takes all."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "microbatches", "log_every", "eval_every", "checkpoint_every", "keep"):
            require(getattr(self, name) >= 1, f"train.{name}", f"must be at least 1, not {getattr(self, name)}")
        require(self.eval_batch_size >= 1, "train.eval_batch_size", f"must be at least 1, not {self.eval_batch_size}")
        require(self.eval_images is None or self.eval_images >= 1, "train.eval_images", "must be at least 1")
        require(self.watchdog_s > 0, "train.watchdog_s", f"must be positive, not {self.watchdog_s}")
        require(self.sample_every >= 0, "train.sample_every", f"must not be negative, not {self.sample_every}")
        require(
            self.batch_size % self.microbatches == 0,
            "train.microbatches",
            f"{self.microbatches} does not divide train.batch_size = {self.batch_size}",
        )


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


@dataclass(frozen=True)
class SamplerConfig:
    """How a colour is drawn from the logits; applied in this order."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest colour."""
    top_k: int | None = None
    """Keep the k likeliest colours."""
    top_p: float | None = None
    """Keep the smallest set of likeliest colours whose probability reaches p."""

    def __post_init__(self) -> None:
        require(self.temperature >= 0, "sampler.temperature", f"must not be negative, not {self.temperature}")
        require(self.top_k is None or self.top_k >= 1, "sampler.top_k", f"must be at least 1, not {self.top_k}")
        require(self.top_p is None or 0 < self.top_p <= 1, "sampler.top_p", f"must lie in (0, 1], not {self.top_p}")


@dataclass(frozen=True)
class Config:
    """One run."""

    name: str = "igpt"
    seed: int = 0
    objective: Literal["ar", "bert", "joint"] = "ar"
    """ar: next-pixel prediction in raster order. bert: prediction of masked pixels (both paper section 2.1). joint:
    either of them, as model.causal says, plus classification (paper section 2.3)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    palette: PaletteConfig = field(default_factory=PaletteConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        check_choices(self, "")
        require(0 <= self.seed < 2**32, "seed", f"must lie in 0..2^32 - 1, not {self.seed}")
        require(
            self.palette.kind != "levels" or self.data.channels == 1,
            "palette.kind",
            "levels are greys: set data.channels to 1, or take a kmeans palette",
        )
        wanted = {"ar": True, "bert": False}.get(self.objective, self.model.causal)
        require(self.model.causal == wanted, "model.causal", f"must be {wanted} for objective {self.objective!r}")
        require(
            (self.objective == "joint") == (self.model.clf_classes > 0),
            "model.clf_classes",
            "the classification head and objective 'joint' go together: set both or neither",
        )
        require(
            self.objective != "joint" or not self.model.cond_classes,
            "model.cond_classes",
            "a model that is told the class cannot learn to name it; drop this or objective 'joint'",
        )
        require(
            self.palette.kind != "pretrained" or self.train.init_from is not None,
            "palette.kind",
            "pretrained is the palette of train.init_from, so that must be given",
        )
        require(
            self.optim.warmup_steps < self.train.steps,
            "optim.warmup_steps",
            f"{self.optim.warmup_steps} is not below train.steps = {self.train.steps}",
        )
