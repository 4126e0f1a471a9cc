"""Which function the decoder is: its sizes, and the paper's presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from igpt_jax.errors import check_fields, nearest, require

Positive = Annotated[int, Ge(1)]
NotNegative = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class ModelConfig:
    """Which function the decoder of Image GPT is (paper section 2.2; `src/model.py` of the release)."""

    grid: tuple[int, ...] = (32, 32)
    """Tokens as rows and columns, or as frames, rows and columns of a video. Their product is T."""
    vocab_size: Positive = 512
    """Palette entries V."""
    n_layer: Positive = 24
    n_head: Positive = 8
    d_model: Positive = 512
    """Width D."""
    positions: str = "learned"
    """How slots know where they are. learned: a vector for each position (release)."""
    mlp: str = "gelu2"
    """The feed-forward layer. gelu2: two projections around x sigmoid(1.702 x), 4 D wide (release)."""
    causal: bool = True
    """True: a slot attends to the slots up to itself, and the sequence begins with a start vector (autoregressive).
    False: every slot attends to every slot, and there is no start vector (BERT)."""
    use_bias: bool = False
    """Biases in the projections. The release has none; models fine-tuned with Hugging Face may have them."""
    clf_classes: NotNegative = 0
    """Classes of the classification head; 0 for no head."""
    clf_layer: Annotated[int | None, Ge(0)] = None
    """Where the classification head reads: i for what block i's attention reads, None for the last states (paper
    section 4.5 tries the layer whose features are best)."""
    cond_classes: NotNegative = 0
    """Classes with a vector that is added to the start vector, so that images of a class can be drawn; 0 for none."""
    any_order: bool = False
    """A table `wpe_source` for the position that a slot's colour comes from, so that tokens can be read and predicted
    in any order. It starts at zero: raster weights then compute the same as before."""
    prefix_slots: NotNegative = 0
    """Slots of a conditioning picture before the tokens; 0 for none. All of them are visible to every slot."""
    prefix_values: NotNegative = 0
    """Numbers that each prefix slot is fed (patch side squared times channels)."""
    aligned_values: NotNegative = 0
    """Numbers that each slot is fed of what a conditioning picture shows around its target (side squared times
    channels, the side odd); 0 for none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        check_fields(self, "model.")
        grid = f"must be (T,), (rows, cols) or (frames, rows, cols), each at least 1; got {self.grid}"
        require(len(self.grid) in (1, 2, 3) and min(self.grid) >= 1, "model.grid", grid)
        heads = f"{self.n_head} heads do not divide model.d_model = {self.d_model}"
        require(self.d_model % self.n_head == 0, "model.n_head", heads)
        for name in ("cond_classes", "any_order", "prefix_slots", "aligned_values"):
            require(self.causal or not getattr(self, name), f"model.{name}", "needs model.causal")
        headless = self.clf_layer is None or self.clf_classes > 0
        require(headless, "model.clf_layer", "there is no classification head; set model.clf_classes, too")
        beyond = f"this model has layers 0 to {self.n_layer}"
        require(self.clf_layer is None or self.clf_layer <= self.n_layer, "model.clf_layer", beyond)
        both = bool(self.prefix_slots) == bool(self.prefix_values)
        require(both, "model.prefix_slots", "goes with model.prefix_values: set both or neither")

    @property
    def n_ctx(self) -> int:
        """Tokens of an image or clip, T."""
        return math.prod(self.grid)

    @property
    def n_frame(self) -> int:
        """Frames of a clip; 1 for an image."""
        return self.grid[0] if len(self.grid) == 3 else 1

    @property
    def has_conditioning(self) -> bool:
        """Whether the model reads a conditioning picture beside the tokens."""
        return bool(self.prefix_slots or self.aligned_values)

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_head

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> ModelConfig:
        """A published size ('s', 'm', 'l', 'xl'; paper section 3.3) or 'tiny', with some fields replaced.

        The paper does not say how many heads XL has. Here it has 16, of size 192.
        """
        require(name in PRESETS, "preset", f"must be one of {', '.join(PRESETS)}; got {name!r}")
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
