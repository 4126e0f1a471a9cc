"""The decoder of Image GPT: slots in, float32 logits out, no mutable state.

Dims are suffixes: B batch, T slot, S key slot, P prefix slot, N layer, H head, K head size, D width, F feed-forward
width, V palette, C class. Parameter names and shapes follow OpenAI's release: its `h0`, `h1`, ... are stacked on a
leading axis under `h`, and every projection's array is called `w`. Where arrays live is not said here: `AXES` names the
dims and `igpt_jax.parallel` places them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from igpt_jax.config import ComputeConfig, ModelConfig
from igpt_jax.errors import InputError
from igpt_jax.model.attention import BACKENDS, Mask, platform
from igpt_jax.model.axes import AXES
from igpt_jax.model.blocks import MLPS, POSITIONS, Block, BlockOutput, Hooks, Places, RMSNorm
from igpt_jax.model.cache import Cache, compute_dtype
from igpt_jax.model.inputs import example_inputs, to_inputs
from igpt_jax.sequence import Inputs

UNROLLED = {"gpu": math.inf, "cpu": 8}
"""Platform -> up to how many layers compute.scan_layers = auto unrolls; 0 elsewhere. On CPUs a step is up to
15 % shorter, but 24 layers compile three times as long."""

TABLES: dict[str, tuple[float, Callable[[ModelConfig], int]]] = {
    "wpe": (0.01, lambda cfg: POSITIONS[cfg.positions].learned * cfg.n_ctx // cfg.n_frame),
    "wte": (0.02, lambda cfg: cfg.vocab_size),
    "wtet": (0.0, lambda cfg: cfg.vocab_size),
    "sos": (0.02, lambda cfg: cfg.causal),
    "wpe_source": (0.0, lambda cfg: POSITIONS[cfg.positions].learned * cfg.any_order * cfg.n_ctx),
    "wpe_frame": (0.0, lambda cfg: POSITIONS[cfg.positions].learned * (cfg.n_frame > 1) * cfg.n_frame),
    "prefix_w": (0.02, lambda cfg: cfg.prefix_values),
    "prefix_wpe": (0.01, lambda cfg: cfg.prefix_slots),
    "aligned_w": (0.01, lambda cfg: cfg.aligned_values),
    "clf": (0.0, lambda cfg: cfg.clf_classes),
    "class_table": (0.0, lambda cfg: cfg.cond_classes),
}
"""What the decoder holds beside its blocks: name -> spread of the first values, and how many rows a model has of it."""


def remat_policy(remat: str) -> Any:
    """What the backward pass does not compute again: nothing, or products with weights and what kernels put out."""
    if remat == "full":
        return None
    policies = jax.checkpoint_policies
    kernels = [backend.saves for backend in BACKENDS.values() if backend.saves is not None]
    return functools.reduce(policies.save_from_both_policies, kernels, policies.dots_with_no_batch_dims_saveable)


class ImageGPT(nn.Module):
    """Image GPT (paper section 2; release, `src/model.py`).

    `model.apply({'params': params}, tokens_BT)` gives the logits of every token, the first included: the start vector
    and the shift by one are inside. With `cfg.causal=False` it is the BERT variant: no start vector, no shift, every
    slot sees every slot. A fresh model predicts all V colours alike (loss = ln V): the output head starts at zero.

    Every method takes tokens [B, T] or `Inputs`. JAX reads another row for a token that is not in 0..V - 1 and says
    nothing; under `checkify(..., errors=checkify.index_checks)` (of jax.experimental) a token of V or more is an
    error. For `jax.jvp`, `jax.hessian` and other forward-mode derivatives set compute.forward_mode.
    """

    cfg: ModelConfig
    compute: ComputeConfig = ComputeConfig()
    hooks: Hooks = Hooks()
    cache: str = "auto"
    """For decoding: type of the keys and values that are kept, as SamplerConfig.cache."""

    @property
    def mask(self) -> Mask:
        if not self.cfg.causal:
            return Mask("full")
        return Mask("prefix", self.cfg.prefix_slots) if self.cfg.prefix_slots else Mask("causal")

    def setup(self) -> None:
        cfg, block, scanned = self.cfg, Block, self.compute.scan_layers
        for name, rows in (("positions", POSITIONS), ("mlp", MLPS)):
            if getattr(cfg, name) not in rows:
                raise InputError(f"model.{name}: must be one of {', '.join(rows)}; got {getattr(cfg, name)!r}")
        tables: dict[str, Any] = {}
        for name, (std, rows) in TABLES.items():
            if n := int(rows(cfg)):
                init = nn.initializers.normal(std) if std else nn.initializers.zeros
                tables[name] = self.param(name, init, (n, cfg.d_model)[-len(AXES[name]) :], jnp.float32)
        self.tables = tables
        if scanned == "auto":
            scanned = cfg.n_layer > UNROLLED.get(platform(), 0)
        if self.compute.remat != "none":
            block = nn.remat(Block, policy=remat_policy(self.compute.remat), prevent_cse=not scanned)
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=cfg.n_layer,
            unroll=1 if scanned else cfg.n_layer,
        )
        self.h = layers(cfg, self.compute, self.mask, self.hooks)
        self.ln_f = RMSNorm(self.compute.forward_mode)

    def __call__(
        self, tokens: jax.Array | Inputs, visible_BT: jax.Array | None = None, class_B: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, T, V], of tokens int [B, cfg.n_ctx] in raster order, or of `Inputs`.

        For BERT, where `visible_BT` is False the token's embedding is zero (its position's is not). For a
        class-conditional model, `class_B` is 0..cond_classes - 1, or -1 for no class.
        """
        return self._logits(self._trunk(to_inputs(self.cfg, tokens, visible_BT, class_B))[0])

    def logits_and_classes(
        self, tokens: jax.Array | Inputs, visible_BT: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Logits of tokens [B, T, V] and of classes [B, C], both float32. The classes are read off the mean over slots
        of the final normed states (paper section 2.3), or of what block cfg.clf_layer reads."""
        if not self.cfg.clf_classes:
            raise InputError("model.clf_classes: this model has no classification head; set the number of classes")
        x_BTD, layers = self._trunk(to_inputs(self.cfg, tokens, visible_BT))
        at = self.cfg.clf_layer
        last = at is None or at == self.cfg.n_layer
        pooled_BD = x_BTD.astype(jnp.float32).mean(axis=1) if last else layers.pooled_BD[at]
        return self._logits(x_BTD), jnp.einsum("bd,cd->bc", pooled_BD, self.tables["clf"])

    def features(self, tokens: jax.Array | Inputs, visible_BT: jax.Array | None = None) -> jax.Array:
        """float32 [N + 1, B, D]: mean over slots of each block's normed input, then of ln_f (paper section 2.4)."""
        x_BTD, layers = self._trunk(to_inputs(self.cfg, tokens, visible_BT))
        return jnp.concatenate([layers.pooled_BD, x_BTD.astype(jnp.float32).mean(axis=1)[None]])

    def hidden_states(
        self, tokens: jax.Array | Inputs, layers: tuple[int, ...] | None = None, visible_BT: jax.Array | None = None
    ) -> jax.Array:
        """Normed states of every slot, those of a prefix first: [len(layers), B, P + T, D] in the compute type.

        Layer i in 0..N - 1 is what block i's attention reads (n^l of paper section 2.4), N what the output head reads.
        """
        n = self.cfg.n_layer
        chosen = tuple(range(n + 1)) if layers is None else tuple(layers)
        if not all(0 <= i <= n for i in chosen):
            raise InputError(f"layers {chosen}: this model has layers 0..{n}")
        x_BTD, outputs = self._trunk(to_inputs(self.cfg, tokens, visible_BT), keep_prefix=True)
        return jnp.stack([x_BTD if i == n else outputs.normed_BTD[i] for i in chosen])

    def extend(self, inputs: Inputs, cache: Cache, at: jax.Array | int) -> tuple[jax.Array, Cache]:
        """Logits float32 [B, T, V] of T more slots, and the cache with their rows added (`init_cache`, `grow_cache`).

        `at` is the row of the first new slot, or int [B] where images are at different rows. A Python 0 takes the fast
        way of a whole sequence; a prefix belongs to the slots at row 0.
        """
        if not self.cfg.causal:
            raise InputError("model.causal: a BERT model sees all pixels at once and cannot decode one after another")
        x_BTD, places = self._embed(inputs)
        weights: Any = self.variables["params"]["h"]
        block = Block(self.cfg, self.compute, self.mask, self.hooks, parent=None)
        rows: list[Any] = []
        for i, layer_cache in enumerate(cache):
            layer = weights[i] if isinstance(weights, tuple) else jax.tree.map(lambda w, i=i: w[i], weights)
            applied: Any = block.apply({"params": layer}, x_BTD, places, layer_cache, at)
            x_BTD = applied[0]
            rows.append(applied[1].cache)
        return self._logits(self.ln_f(self._without_prefix(x_BTD, inputs))), tuple(rows)

    def _trunk(self, inputs: Inputs, keep_prefix: bool = False) -> tuple[jax.Array, BlockOutput]:
        """Final normed states [B, T, D], and the blocks' outputs stacked over layers."""
        x_BTD, outputs = self.h(*self._embed(inputs), None, 0)
        return self.ln_f(x_BTD if keep_prefix else self._without_prefix(x_BTD, inputs)), outputs

    def _embed(self, inputs: Inputs) -> tuple[jax.Array, Places]:
        """What each slot holds, prefix slots first, [B, P + T, D] in the compute type; and where it is."""
        tables = self.tables
        x_BTD = tables["wte"][inputs.token]
        if "wpe_source" in tables:
            x_BTD = x_BTD + tables["wpe_source"][inputs.source]
        x_BTD = jnp.where(inputs.fed[..., None], x_BTD, 0)
        if self.cfg.causal:
            x_BTD = jnp.where(inputs.start[..., None], self._start(inputs.class_id)[:, None], x_BTD)
        if "wpe" in tables:
            frame, place = jnp.divmod(inputs.target, len(tables["wpe"]))
            x_BTD = x_BTD + tables["wpe"][place]
            x_BTD = x_BTD + tables["wpe_frame"][frame] if "wpe_frame" in tables else x_BTD
        if inputs.aligned is not None:
            around_BTA = jnp.take_along_axis(inputs.aligned, inputs.target[..., None], axis=1)
            x_BTD = x_BTD + jnp.einsum("bta,ad->btd", around_BTA, tables["aligned_w"])
        places = Places(inputs.target, jnp.where(inputs.start, -1, inputs.source))
        if inputs.prefix is not None:
            prefix_BPD = jnp.einsum("bpw,wd->bpd", inputs.prefix, tables["prefix_w"]) + tables["prefix_wpe"][None]
            x_BTD = jnp.concatenate([prefix_BPD, x_BTD], axis=1)
            before = ((0, 0), (prefix_BPD.shape[1], 0))
            places = Places(*(jnp.pad(x, before, constant_values=-1) for x in places))
        x_BTD = x_BTD.astype(compute_dtype(self.compute))
        return x_BTD if self.hooks.residual is None else self.hooks.residual(x_BTD), places

    def _start(self, class_B: jax.Array | None) -> jax.Array:
        """What a start slot is fed, [B, D] or [1, D]: the start vector, plus the class's vector if there is one."""
        start_1D = self.tables["sos"][None]
        if class_B is None:
            return start_1D
        return start_1D + jnp.where(class_B[:, None] >= 0, self.tables["class_table"][class_B], 0)

    def _without_prefix(self, x_BTD: jax.Array, inputs: Inputs) -> jax.Array:
        return x_BTD if inputs.prefix is None else x_BTD[:, inputs.prefix.shape[1] :]

    def _logits(self, x: jax.Array) -> jax.Array:
        return jnp.einsum("...d,vd->...v", x, self.tables["wtet"].astype(x.dtype), preferred_element_type=jnp.float32)


@functools.lru_cache(maxsize=16)
def abstract_params(cfg: ModelConfig) -> Any:
    """Shapes and types of a model's parameters; nothing is allocated."""
    model = ImageGPT(cfg, ComputeConfig(dtype="float32", attention="reference"))  # the same for any way to compute
    return jax.eval_shape(model.init, jax.random.key(0), example_inputs(cfg))["params"]


def count_params(cfg: ModelConfig) -> int:
    """How many parameters a model has."""
    return sum(x.size for x in jax.tree.leaves(abstract_params(cfg)))
