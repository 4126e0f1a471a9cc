"""Training steps and decoding beside Hugging Face's ImageGPT in PyTorch, on one machine, in turns.

    make bench                                     # L8, width 256, 32 x 32 pixels, 512 colours, float32 on CPUs
    python experiments/peers/compare.py sample --model runs/emoji/best --draw 8                  # trained weights
    python experiments/peers/compare.py --layers 24 --width 512 --batch 64 --dtype bfloat16      # S, on a GPU

Each side has a process of its own, with its program compiled and warm. They run one after another, in turns, so that
what else the machine does meets all alike. How fast guesses make drawing depends on the weights, so drawing is compared
on trained ones, which the peer reads in Hugging Face's format, at one temperature and top-k. A line is added to
experiments/results/<device>.jsonl for each comparison;
table.py makes the README's table of these lines. Needs the extra `peers`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"

AGAINST = {"train": ("igpt_jax", "eager", "compiled"), "sample": ("igpt_jax", "one_by_one", "eager")}
"""What is done -> the sides that do it. one_by_one is igpt_jax without guesses. `generate` is not compiled: its cache
grows with every token."""


class Side:
    """A process of sides.py."""

    def __init__(self, side: str, what: str, shape: dict[str, Any]) -> None:
        self.name = side
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # the sides share a GPU's memory
        command = [sys.executable, str(HERE / "sides.py"), side, what, json.dumps(shape)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts: dict[str, Any] = self._answer()["facts"]

    def run(self) -> float:
        """Seconds of one run."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit(f"compare: the side {self.name} ended with exit code {self._process.wait()}; its message is above")


def compare(what: str, shape: dict[str, Any], rounds: int, budget_s: float) -> dict[str, Any]:
    """Median seconds of each side, and how many times those of igpt_jax they are."""
    begin = time.monotonic()
    sides = [Side(name, what, shape) for name in AGAINST[what]]
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for done in range(rounds):
        if done and time.monotonic() - begin > budget_s:
            break
        for side in sides:
            times[side.name].append(side.run())
        print(f"{what}: {' '.join(f'{name} {t[-1]:.3f}' for name, t in times.items())}", file=sys.stderr, flush=True)
    for side in sides:
        side.close()
    medians = {name: statistics.median(t) for name, t in times.items()}
    facts: dict[str, Any] = {}
    for side in sides:
        facts |= side.facts
    return {
        "what": what,
        **shape,
        "seconds": medians,
        "spread": {name: [min(t), max(t)] for name, t in times.items()},
        "ratio": {name: t / medians["igpt_jax"] for name, t in medians.items() if name != "igpt_jax"},
        "rounds": len(times["igpt_jax"]),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        **facts,
    }


def main() -> None:
    """Compares, prints and adds to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="train, sample; by default both")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--side", type=int, default=32, help="pixels of a side of the picture")
    parser.add_argument("--vocab", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4, help="images of a training step")
    parser.add_argument("--draw", type=int, default=8, help="images drawn at once")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--model", help="draw with these weights, a workdir's; their sizes take the place of the above")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no round is begun")
    parser.add_argument("--out", type=Path, help="a .jsonl file; by default experiments/results/<device>.jsonl")
    typed = parser.parse_args()
    for what in typed.what:
        if what not in AGAINST:
            parser.error(f"{what!r} is none of {', '.join(AGAINST)}")
    shape = {name: getattr(typed, name) for name in ("layers", "width", "heads", "side", "vocab", "dtype")}
    with tempfile.TemporaryDirectory() as directory:
        if typed.model is not None:
            shape |= trained(typed.model, f"{directory}/model")
        for what in typed.what or AGAINST:
            batch = typed.batch if what == "train" else typed.draw
            record(compare(what, {**shape, "batch": batch}, typed.rounds, typed.budget), typed.out)


def trained(model: str, directory: str) -> dict[str, Any]:
    """The shape of trained weights, which are also written to a directory in Hugging Face's format."""
    from igpt_jax import load_pretrained
    from igpt_jax.weights.load import convert

    weights = load_pretrained(model)
    convert(weights, "huggingface", Path(directory))
    cfg = weights.config.model
    sizes = {"layers": cfg.n_layer, "width": cfg.d_model, "heads": cfg.n_head, "side": cfg.grid[0]}
    return {**sizes, "vocab": cfg.vocab_size, "model": model, "huggingface": directory}


def record(result: dict[str, Any], out: Path | None) -> None:
    """Prints a result, and adds it to those of its device."""
    result.pop("huggingface", None)
    if "model" in result:
        result["model"] = next(part for part in reversed(Path(result["model"]).parts) if part != "best")
    print(json.dumps(result, indent=2))
    out = out or RESULTS / f"{str(result['device']).lower().replace(' ', '_')}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
