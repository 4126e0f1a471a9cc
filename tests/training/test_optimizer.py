"""The schedule's corner points, Adam's first step, and who is decayed."""

import jax.numpy as jnp
import numpy as np
import optax

from igpt_jax.config import OptimConfig
from igpt_jax.parallel.mesh import path_name
from igpt_jax.training.optimizer import decay_mask, make_optimizer, make_schedule


def test_warm_up_then_cosine_to_zero():
    rate = make_schedule(OptimConfig(lr=2.0, warmup_steps=10), 110)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(60), rate(110)], [0, 1, 2, 1, 0], atol=1e-6)


def test_constant_after_warm_up():
    rate = make_schedule(OptimConfig(lr=2.0, warmup_steps=10, schedule="constant"), 110)
    np.testing.assert_allclose([rate(5), rate(10), rate(110)], [1, 2, 2])
    assert make_schedule(OptimConfig(lr=2.0, schedule="constant"), 110)(0) == 2
    assert make_schedule(OptimConfig(lr=2.0), 110)(0) == 2


def params():
    return {"wte": jnp.ones((2, 2)), "ln_f": {"g": jnp.ones(2)}, "h": {"mlp": {"c_fc": {"w": jnp.ones((1, 2, 2))}}}}


def test_first_adam_step_moves_by_the_learning_rate():
    p = params()
    tx = make_optimizer(OptimConfig(lr=0.1, schedule="constant"), 10)
    updates, _ = tx.update(p, tx.init(p), p)
    np.testing.assert_allclose(updates["wte"], -0.1, rtol=1e-5)


def test_only_matrices_decay():
    import jax

    p = params()
    tx = make_optimizer(OptimConfig(lr=0.1, schedule="constant", weight_decay=0.5), 10)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)
    moved = {path_name(path): float(jnp.abs(u).max()) for path, u in jax.tree.leaves_with_path(updates)}
    assert moved == {"wte": 0, "ln_f/g": 0, "h/mlp/c_fc/w": np.float32(0.05)}
    assert decay_mask(p)["ln_f"]["g"] is False


def test_clipping_bounds_the_gradient_before_adam():
    p = params()
    tx = make_optimizer(OptimConfig(clip_norm=1.0), 10)
    grads = {
        "wte": jnp.full((2, 2), 1e6),
        "ln_f": {"g": jnp.zeros(2)},
        "h": {"mlp": {"c_fc": {"w": jnp.zeros((1, 2, 2))}}},
    }
    _, state = tx.update(grads, tx.init(p), p)
    assert optax.global_norm(optax.tree_utils.tree_get(state, "mu")) <= 0.1 + 1e-6
