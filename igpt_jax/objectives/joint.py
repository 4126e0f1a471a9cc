"""Generation and classification together, L_GEN + L_CLF from one pass (paper section 2.3)."""

from __future__ import annotations

import dataclasses

import jax

from igpt_jax.config import Config
from igpt_jax.errors import require
from igpt_jax.objectives.ar import make_ar
from igpt_jax.objectives.base import Batch, Objective, image_weights
from igpt_jax.objectives.bert import make_bert
from igpt_jax.palette import Palette
from igpt_jax.sequence import Example


def make_joint(cfg: Config, palette: Palette) -> Objective:
    """L_GEN is that of AR or BERT, as the model is. L_CLF is the mean of -log p of the labels, in nats.

    Images without a label (-1) count in L_GEN alone.

    Raises:
      InputError: the model has no classification head, or is told the class that it should predict.
    """
    model = cfg.model
    require(
        model.clf_classes > 0, "model.clf_classes", "objective 'joint' needs a classification head; set its classes"
    )
    told = "a model that reads the class cannot learn to predict it; drop this or objective 'joint'"
    require(not model.cond_classes, "model.cond_classes", told)
    headless = dataclasses.replace(cfg, model=dataclasses.replace(model, clf_classes=0))
    generative = make_ar(headless, palette) if model.causal else make_bert(headless, palette)

    def example(batch: Batch, keys_B: jax.Array) -> Example:
        label_B = batch["label"]
        weight_B = image_weights(batch) * (label_B >= 0)
        return generative.example(batch, keys_B)._replace(class_label=label_B, class_weight=weight_B)

    return dataclasses.replace(generative, example=example, evaluators=("likelihood", "accuracy"))
