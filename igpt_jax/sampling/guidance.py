"""Guidance: a class-conditional model is pushed away from what it would draw without a class.

logits = without + guidance (with - without), as in Ho and Salimans (2022), "Classifier-free diffusion guidance", here
for each pixel. 1 is the model itself, 0 draws without the class, larger values draw more typical images of it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.config import SamplerConfig
from igpt_jax.errors import InputError, require
from igpt_jax.sampling.prompt import Prompt


def in_pairs(prompt: Prompt, keys_B: jax.Array) -> tuple[Prompt, jax.Array]:
    """Every image twice, one row after the other and with the same key: with its class, and without one."""
    pairs = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), prompt._replace(prefix=None))
    without_B = jnp.arange(len(pairs.tokens)) % 2 == 1
    class_id = jnp.where(without_B, -1, pairs.class_id)
    return pairs._replace(class_id=class_id, prefix=prompt.prefix), jnp.repeat(keys_B, 2, axis=0)


def guided(logits_BV: jax.Array, guidance: jax.Array) -> jax.Array:
    """Logits of pairs -> guided ones, float32 [B, V], the same in both rows of a pair, so that both draw one colour."""
    pairs = logits_BV.astype(jnp.float32).reshape(-1, 2, logits_BV.shape[-1])
    told, untold = pairs[:, 0], pairs[:, 1]
    return jnp.repeat(untold + guidance * (told - untold), 2, axis=0)


def check_guidance(sampler: SamplerConfig, cond_classes: int, class_id: np.ndarray | None = None) -> None:
    """Checks that guidance, if it is asked for, can have an effect.

    Args:
      class_id: int [n], the classes of the images, -1 for none; None for a task that does not support guidance.

    Raises:
      InputError: the model has no classes, no image has one, or the task does not support it.
    """
    if sampler.guidance != 1:
        key = "sampler.guidance"
        require(cond_classes > 0, key, "this model has no classes to be guided by (model.cond_classes)")
        if class_id is None:
            raise InputError(f"{key}: is for new images and completions; leave it at 1 here")
        require(max(class_id, default=-1) >= 0, key, "no image has a class to be guided by; name classes")
