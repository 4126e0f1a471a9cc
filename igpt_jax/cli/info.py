"""igpt info: what some weights are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from igpt_jax.cli.common import Command, Flag
from igpt_jax.config_json import json_text


@dataclass(frozen=True, kw_only=True)
class Info(Command):
    """What a model is: kind, sizes, classes, training, palette, data and figures. The weights are not read."""

    model: tyro.conf.Positional[str]
    """A workdir of igpt train, an OpenAI checkpoint (its prefix), a Hugging Face directory, or a Hub name."""
    step: int | None = None
    """Checkpoint of a workdir; by default the newest."""
    json: Flag = False
    """Print JSON."""

    def run(self) -> None:
        from igpt_jax.pretrained import describe
        from igpt_jax.training.metric_log import last_evaluation
        from igpt_jax.weights.load import inspect

        model = inspect(self.model, step=self.step)
        facts = describe(model) | {"held_out": last_evaluation(Path(self.model), model.step)}
        if self.json:
            print(json_text(facts), end="")
            return
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            if value not in (None, {}, []):
                print(f"{name.replace('_', ' '):<{width}}  {_text(value)}")


def _text(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4f}"
        case int():
            return f"{value:,}"
        case dict():
            return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
        case list() | tuple():
            return (" x " if all(isinstance(part, int) for part in value) else ", ").join(map(str, value))
    return str(value)
