"""Which model size is best for a budget of training FLOPs? Runs of several sizes at equal cost.

    python experiments/benchmarks/isoflop.py fashion_mnist --flops 3e13 --sizes 1x32 2x64 4x128 --workdir runs/isoflop

LxD is a model of L layers of width D with heads of size 32 (16 at width 16). All runs have the experiment's batch,
images and palette; each takes as many steps as its budget allows, a twentieth of them to warm up, then cosine to 0; the
rate is the experiment's times sqrt(its width / D). A run that was ended continues with the same command. FLOPs are
those of `igpt plan`: 6 per token and weight of the blocks, and attention's by the keys that are seen.

For each budget a parabola of the loss in log(parameters) goes through the three sizes around the best, as in Hoffmann
et al. (2022, "Training Compute-Optimal Large Language Models", approach 2). Its lowest point is the size for that
budget, unless the best size is the smallest or largest tried.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from igpt_jax import Config, InputError, evaluate, load_pretrained, train
from igpt_jax.config_json import json_text
from igpt_jax.model import count_params
from igpt_jax.plugins import load_config
from igpt_jax.training.flops import training_flops


def run_config(base: Config, size: str, budget: float) -> Config:
    """The experiment with a model of `size` (LxD), and as many steps as `budget` FLOPs allow.

    Raises:
      InputError: the size is no LxD, or the budget is below 20 steps.
    """
    layers, _, width = size.partition("x")
    if not (layers.isdigit() and width.isdigit()):
        raise InputError(f"--sizes {size}: is not LAYERSxWIDTH")
    d = int(width)
    model = replace(base.model, n_layer=int(layers), d_model=d, n_head=max(1, d // 32))
    steps = int(budget / training_flops(model, base.compute, base.data.batch_size).headline)
    if steps < 20:
        raise InputError(f"--flops {budget:g}: {steps} steps of {size}; allow more, or name smaller --sizes")
    lr = base.optim.lr * (base.model.d_model / d) ** 0.5
    optim = replace(base.optim, lr=lr, warmup_steps=max(1, steps // 20), schedule="cosine", ema_decay=None)
    schedule = replace(base.train, steps=steps, eval_every=steps, sample_every=0, checkpoint_every=max(20, steps // 4))
    return replace(base, model=model, optim=optim, train=schedule)


def lowest(parameters: list[int], nats: list[float]) -> float | None:
    """Parameters at the lowest point of the parabola in log(parameters) around the best size; None at either end."""
    best = int(np.argmin(nats))
    if not 0 < best < len(nats) - 1:
        return None
    a, b, _ = np.polyfit(np.log(parameters[best - 1 : best + 2]), nats[best - 1 : best + 2], 2)
    return float(np.exp(-b / (2 * a)))


def main() -> None:
    """Trains, prints the table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="as for igpt train")
    parser.add_argument("--flops", type=float, nargs="+", required=True, help="budgets")
    parser.add_argument("--sizes", nargs="+", required=True, metavar="LxD")
    parser.add_argument("--workdir", type=Path, required=True, help="a folder for all runs")
    parser.add_argument("--tiny", action="store_true", help="the experiment's small form")
    args = parser.parse_args()
    try:
        base = load_config(args.experiment, args.tiny)
        planned = {budget: [run_config(base, size, budget) for size in args.sizes] for budget in args.flops}
    except InputError as error:
        parser.error(str(error))
    results = []
    print("| FLOPs | model | parameters, M | steps | nats per token |\n|---|---|---|---|---|")
    for budget, configs in planned.items():
        runs = []
        for cfg, size in zip(configs, args.sizes, strict=True):
            workdir = args.workdir / f"{budget:g}-{size}"
            train(cfg, workdir)
            figures = evaluate(load_pretrained(workdir))
            n, steps, nats, error = count_params(cfg.model), cfg.train.steps, figures.nats, figures.errors
            runs.append({"parameters": n, "nats": nats["model"], "error": error["model"], "steps": steps, "size": size})
            cells = [f"{budget:.1e}", size, f"{n / 1e6:.3f}", steps, f"{nats['model']:.4f} ± {error['model']:.4f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
        runs.sort(key=lambda run: run["parameters"])
        best = lowest([run["parameters"] for run in runs], [run["nats"] for run in runs])
        print(f"best: {'at an end of the sizes' if best is None else f'{best / 1e6:.3f} M parameters'}")
        results.append({"flops": budget, "best": best, "runs": runs})
    (args.workdir / "isoflop.json").write_text(json_text(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
