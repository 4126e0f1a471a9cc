"""Does a lower loss mean better features? Likelihood and probe of several checkpoints (paper section 4.3, figure 3).

    igpt fetch igpt-s --step 131000 --out weights/s131 ...
    python experiments/benchmarks/loss_to_probe.py weights/s131 weights/s262 weights/m131 --source tfds:cifar10
    python experiments/benchmarks/loss_to_probe.py runs/fashion_mnist@500 runs/fashion_mnist@3000 --train-images 5000

A model is a path, or a workdir and a step. Held-out nats per token are those of the source; the layer and C are chosen
on validation images. A run keeps as many checkpoints as train.keep says.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from igpt_jax import ProbeConfig, evaluate, load_pretrained, probe
from igpt_jax.config_json import json_text
from igpt_jax.model import count_params


def main() -> None:
    """Prints the table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL[@STEP]")
    parser.add_argument("--source", help="images with classes; by default those of each run")
    parser.add_argument("--train-images", type=int, help="at most so many for the probe")
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("| model | step | parameters, M | nats per token | best layer | accuracy |\n|---|---|---|---|---|---|")
    for name in args.models:
        path, _, step = name.partition("@")
        weights = load_pretrained(path, step=int(step) if step else None)
        if args.source is not None:
            data = replace(weights.config.data, source=args.source)
            weights = replace(weights, config=replace(weights.config, data=data))
        size = count_params(weights.config.model)
        figures = evaluate(weights)
        probed = probe(weights, ProbeConfig(train_images=args.train_images, others=()))
        best = probed.layers[probed.best_layer]
        nats, accuracy = (figures.nats["model"], figures.errors["model"]), (best.accuracy, best.error)
        rows.append({"model": path, "step": weights.step, "parameters": size, "nats": nats, "accuracy": accuracy})
        rows[-1]["best_layer"] = probed.best_layer
        cells = [path, weights.step, f"{size / 1e6:.2f}", f"{nats[0]:.4f} ± {nats[1]:.4f}", probed.best_layer]
        cells.append(f"{accuracy[0]:.4f} ± {accuracy[1]:.4f}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if args.out is not None:
        args.out.write_text(json_text(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
