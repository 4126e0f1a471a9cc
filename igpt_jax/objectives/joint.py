"""Generation and classification together, L_GEN + L_CLF from one pass (paper section 2.3)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from igpt_jax.config import Config
from igpt_jax.errors import require
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.objectives.ar import make_ar
from igpt_jax.objectives.base import (
    ACCURACY,
    NATS,
    Batch,
    Mean,
    Objective,
    Scores,
    cross_entropy,
    image_weights,
)
from igpt_jax.objectives.bert import make_bert
from igpt_jax.palette import Palette
from igpt_jax.sequence import Example


def make_joint(cfg: Config, palette: Palette) -> Objective:
    """L_GEN is that of AR or BERT, as the model is. L_CLF is the mean of -log p of the labels, in nats.

    Images without a label (-1) count in L_GEN alone.
    """
    model = cfg.model
    require(
        model.clf_classes > 0, "model.clf_classes", "objective 'joint' needs a classification head; set its classes"
    )
    read = "a model that reads the class cannot learn to predict it; drop this or objective 'joint'"
    require(not model.cond_classes, "model.cond_classes", read)
    headless = dataclasses.replace(cfg, model=dataclasses.replace(model, clf_classes=0, clf_layer=None))
    generative = make_ar(headless, palette) if model.causal else make_bert(headless, palette)

    def example(batch: Batch, keys_B: jax.Array) -> Example:
        label_B = batch["label"]
        weight_B = image_weights(batch) * (label_B >= 0)
        return generative.example(batch, keys_B)._replace(class_label=label_B, class_weight=weight_B)

    return dataclasses.replace(
        generative,
        example=example,
        score=scores_with_classes,
        more_figures={"clf_nats": NATS, "clf_accuracy": ACCURACY},
        evaluators=("likelihood", "accuracy"),
    )


def scores_with_classes(model: ImageGPT, params: Any, example: Example, loss_name: str) -> Scores:
    """Cross-entropy of tokens and of classes; `clf_accuracy` is of one mask, where masks are drawn."""
    assert example.class_label is not None
    assert example.class_weight is not None
    both: Any = model.apply({"params": params}, example.inputs, method="logits_and_classes")
    logits, class_logits_BC = both
    tokens = cross_entropy(logits, example.labels, example.weights)
    known_B = jnp.maximum(example.class_label, 0)  # -1 has weight 0
    classes = cross_entropy(class_logits_BC, known_B, example.class_weight)
    correct_B = (jnp.argmax(class_logits_BC, axis=-1) == example.class_label) * example.class_weight
    return Scores({loss_name: tokens, "clf_nats": classes}, {"clf_accuracy": Mean(correct_B, example.class_weight)})
