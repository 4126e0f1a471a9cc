"""The state of a run as one pytree, and the one train step that advances it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from igpt_jax.keys import fold_in
from igpt_jax.model.decoder import AXES, ImageGPT
from igpt_jax.objectives import Batch, Mean, Objective, stream
from igpt_jax.parallel.mesh import placed, replicated, traced_on

Params = Any
Metrics = dict[str, jax.Array]


@struct.dataclass
class TrainState:
    """Everything that a step changes and a checkpoint keeps."""

    step: jax.Array
    """int32 scalar: steps taken."""
    params: Params
    """float32."""
    opt_state: Any
    ema: Any
    """Moving average of params, or None."""

    @property
    def best_params(self) -> Params:
        """What to evaluate and sample with: the average where there is one."""
        return self.params if self.ema is None else self.ema


def make_init(
    model: ImageGPT, tx: optax.GradientTransformation, seed: int, ema: bool, mesh: Mesh
) -> tuple[Callable[[], TrainState], TrainState]:
    """A jitted maker of the fresh state, born sharded, and the state's shapes with their shardings."""

    def init() -> TrainState:
        tokens_BT = jnp.zeros((1, model.cfg.n_ctx), jnp.int32)
        params = model.init(jax.random.key(seed), tokens_BT)["params"]
        average = jax.tree.map(jnp.copy, params) if ema else None
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), average)

    abstract = placed(jax.eval_shape(init), mesh, AXES)
    places = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(traced_on(mesh, init), out_shardings=places), abstract


def make_train_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    microbatches: int,
    ema_decay: float | None,
    abstract: TrainState,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """The jitted step: (state, batch) -> gradients -> update -> (state, metrics). The state passed in is donated.

    `abstract` says where the state lives. Image j of step k has the key fold_in(fold_in(stream, k), j). The metrics
    are those of the objective, `loss`, and the norms of gradient and update.
    """

    def loss_and_means(
        params: Params, batch: Batch, keys_B: jax.Array, weights: Mapping[str, jax.Array] | None
    ) -> tuple[jax.Array, dict[str, Mean]]:
        terms = objective(params, batch, keys_B)
        return terms.loss(weights), terms.means

    def gradients(
        params: Params, batch: Batch, keys_B: jax.Array, weights: Mapping[str, jax.Array] | None = None
    ) -> tuple[Params, jax.Array, dict[str, Mean]]:
        (loss, means), grads = jax.value_and_grad(loss_and_means, has_aux=True)(params, batch, keys_B, weights)
        return grads, loss, means

    def accumulate(params: Params, batch: Batch, keys_B: jax.Array) -> tuple[Params, jax.Array, dict[str, Mean]]:
        """The sums over equal parts of the batch. Part i takes every m-th row, so no row changes its device."""
        weights = objective(params, batch, keys_B).weights  # all else of this pass is pruned when it is compiled

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:]).swapaxes(0, 1)

        def one(sums: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, gradients(params, *part, weights)), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradients, params, batch, keys_B))
        sums, _ = jax.lax.scan(one, zeros, jax.tree.map(split, (batch, keys_B)))
        return sums

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(stream(seed, "train"), state.step)
        keys_B = fold_in(key, jnp.arange(batch["image"].shape[0]))
        grads, loss, means = (gradients if microbatches == 1 else accumulate)(state.params, batch, keys_B)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if ema_decay is None else optax.incremental_update(params, state.ema, 1 - ema_decay)
        metrics = {name: mean.value for name, mean in means.items()} | {"loss": loss}
        metrics |= {"grad_norm": optax.global_norm(grads), "update_norm": optax.global_norm(updates)}
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    places = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(traced_on(mesh, train_step), donate_argnums=0, out_shardings=(places, replicated(mesh)))
