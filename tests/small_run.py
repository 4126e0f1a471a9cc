"""A run of ten steps that takes seconds, and what tests ask of it."""

from dataclasses import replace

import jax
import numpy as np

from igpt_jax.config import Config, DataConfig, ModelConfig, OptimConfig, PaletteConfig, TrainConfig

CFG = Config(
    name="small",
    model=ModelConfig(grid=(8, 8), vocab_size=17, n_layer=1, n_head=2, d_model=16),
    data=DataConfig(source="digits", batch_size=16, channels=1, augment="shift", shift=1),
    palette=PaletteConfig("levels"),
    optim=OptimConfig(lr=1e-2, warmup_steps=2, ema_decay=0.9),
    train=TrainConfig(
        steps=10, log_every=4, eval_every=5, checkpoint_every=3, keep=20, eval_batch_size=304, draft_steps=0
    ),
)


def config(objective):
    """CFG for another objective."""
    sizes = {"bert": {"causal": False}, "joint": {"clf_classes": 10}, "any_order": {"any_order": True}}
    return replace(CFG, objective=objective, model=replace(CFG.model, **sizes.get(objective, {})))


def at_step(n, act):
    """An `on_step` that acts once, at step n."""

    def on_step(step, log):
        if step == n:
            act()

    return on_step


def crash():
    raise RuntimeError("crash")


def state_bytes(workdir, step):
    """Every array of a checkpoint: parameters, average, moments, counts."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager((workdir / "checkpoints").resolve(), options=options) as manager:
        args = {name: ocp.args.StandardRestore() for name in ("params", "ema", "rest")}
        items = manager.restore(step, args=ocp.args.Composite(**args))
    leaves = jax.tree.leaves_with_path({name: items[name] for name in args})
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in leaves}
