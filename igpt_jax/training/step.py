"""The state of a run as one pytree, the one train step that advances it, and the programs of a run.

`igpt train` runs these programs and `igpt plan` compiles them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from igpt_jax.config import Config
from igpt_jax.keys import fold_in, stream
from igpt_jax.model.axes import AXES, Params
from igpt_jax.model.blocks import Hooks
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.model.inputs import example_inputs
from igpt_jax.objectives import (
    Batch,
    MakeObjective,
    Mean,
    Objective,
    Scores,
    check_degrade,
    drop_classes,
    make_objective,
)
from igpt_jax.palette import Palette
from igpt_jax.parallel.hooks import shard_kernel, split_over_images, width_first_on_tpus
from igpt_jax.parallel.mesh import replicated, traced_on, with_shardings
from igpt_jax.training.optimizer import make_optimizer

Metrics = dict[str, jax.Array]


@struct.dataclass
class TrainState:
    """Everything that a step changes and a checkpoint stores."""

    step: jax.Array
    """int32 scalar: steps taken."""
    params: Params
    """float32."""
    opt_state: Any
    ema: Any
    """Moving average of params, or None."""

    @property
    def eval_params(self) -> Params:
        """What to evaluate and sample with: the average if there is one."""
        return self.params if self.ema is None else self.ema


class Program(NamedTuple):
    """The jitted functions of a run and the shape of its state; nothing is allocated yet."""

    model: ImageGPT
    objective: Objective
    init: Callable[[], TrainState]
    abstract: TrainState
    """Shapes, types and shardings of the state."""
    train_step: jax.stages.Wrapped
    """(state, batch) -> (state, metrics)."""


def make_model(cfg: Config) -> ImageGPT:
    """The decoder of a configuration, for any number of devices."""
    weight = None if cfg.compute.forward_mode else width_first_on_tpus
    return ImageGPT(cfg.model, cfg.compute, Hooks(weight, shard_kernel, split_over_images))


def make_program(cfg: Config, palette: Palette, mesh: Mesh, objective: MakeObjective | None = None) -> Program:
    """The programs of a run; `objective` takes the place of the one that cfg.objective names."""
    model = make_model(cfg)
    bound = make_objective(cfg, palette) if objective is None else objective(cfg, palette)
    check_degrade(cfg, bound)
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    init, abstract = make_init(model, tx, cfg, mesh)
    train_step = make_train_step(model, bound, tx, cfg, abstract, mesh)
    return Program(model, bound, init, abstract, train_step)


def make_init(
    model: ImageGPT, tx: optax.GradientTransformation, cfg: Config, mesh: Mesh
) -> tuple[Callable[[], TrainState], TrainState]:
    """A jitted function that makes the initial state, sharded from the start; and the state's shapes and shardings."""

    def init() -> TrainState:
        params = model.init(stream(cfg.seed, "init"), example_inputs(model.cfg))["params"]
        average = None if cfg.optim.ema_decay is None else jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), average)

    abstract = with_shardings(jax.eval_shape(traced_on(mesh, init)), mesh, AXES)
    places = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(traced_on(mesh, init), out_shardings=places), abstract


def make_train_step(
    model: ImageGPT,
    objective: Objective,
    tx: optax.GradientTransformation,
    cfg: Config,
    abstract: TrainState,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """The jitted step: (state, batch) -> gradients -> update -> (state, metrics). The state passed in is donated.

    `abstract` says where the state lives. Image j of step k has the key fold_in(fold_in(stream, k), j). The metrics
    are those of the objective, `loss`, and the norms of gradient and update.
    """
    microbatches, decay = cfg.train.microbatches, cfg.optim.ema_decay

    def loss_of(
        params: Params, batch: Batch, keys_B: jax.Array, weights: Mapping[str, jax.Array] | None = None
    ) -> tuple[jax.Array, dict[str, Mean]]:
        """The loss and all means; with the weights of a larger batch, what these images add to its loss."""
        example = drop_classes(objective.example(batch, keys_B), keys_B, cfg.class_dropout)
        scores = objective.score(model, params, example, objective.loss_name).summed
        of_whole = scores
        if weights is not None:
            of_whole = Scores({name: Mean(mean.total, weights[name]) for name, mean in scores.losses.items()})
        return of_whole.loss, scores.each

    gradients = jax.value_and_grad(loss_of, has_aux=True)  # -> (loss, means), gradients

    def accumulate(params: Params, batch: Batch, keys_B: jax.Array) -> tuple[Any, Params]:
        """As `gradients`, in equal parts of the batch. Part i takes every m-th row, so no row changes its device."""
        # Weights do not depend on the parameters, so the compiler drops the decoder here.
        weights = {name: mean.weight for name, mean in loss_of(params, batch, keys_B)[1].items()}

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:]).swapaxes(0, 1)

        def one(sums: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, gradients(params, *part, weights)), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradients, params, batch, keys_B))
        sums, _ = jax.lax.scan(one, zeros, jax.tree.map(split, (batch, keys_B)))
        return sums

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(stream(cfg.seed, "train"), state.step)
        keys_B = fold_in(key, jnp.arange(batch["image"].shape[0]))
        grads_of = gradients if microbatches == 1 else accumulate
        (loss, means), grads = grads_of(state.params, batch, keys_B)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if decay is None else optax.incremental_update(params, state.ema, 1 - decay)
        metrics = {name: mean.value for name, mean in means.items()} | {"loss": loss}
        metrics |= {"grad_norm": optax.global_norm(grads), "update_norm": optax.global_norm(updates)}
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    places = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(traced_on(mesh, train_step), donate_argnums=0, out_shardings=(places, replicated(mesh)))
