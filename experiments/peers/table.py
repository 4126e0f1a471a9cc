"""The README's table of speed, made of the newest line of each comparison in experiments/results.

python experiments/peers/table.py              # prints it
python experiments/peers/table.py --write      # and puts it into the README
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- speed: experiments/peers/table.py --write -->", "<!-- end of speed -->"
SHAPE = ("device", "what", "layers", "width", "heads", "side", "vocab", "dtype", "batch")
NAMES = {"train": "training step", "sample": "drawing whole images"}


def rows(directory: Path = RESULTS) -> list[dict[str, Any]]:
    """The newest result of every device and shape."""
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(directory.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            result = json.loads(line)
            newest[(*(result[key] for key in SHAPE), result.get("model"))] = result
    return list(newest.values())


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: seconds of each side, and in brackets how many times ours they are."""
    lines = [
        "| on | what | igpt_jax | without guesses | transformers | with torch.compile |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        size = f"{r['layers']} layers of {r['width']}, {r['side']}×{r['side']}, {r['batch']} images, {r['dtype']}"
        size = f"{r['model']}, {size}" if "model" in r else size
        theirs = [
            f"{r['seconds'][side]:.2f} s (**{r['ratio'][side]:.1f}x**)" if side in r["seconds"] else ""
            for side in ("one_by_one", "eager", "compiled")
        ]
        device = f"{r['device']}, {r['cores']} cores" if r["backend"] == "cpu" else r["device"]
        what = f"{NAMES[r['what']]}: {size}"
        lines.append(f"| {device} | {what} | {r['seconds']['igpt_jax']:.2f} s | {' | '.join(theirs)} |")
    return "\n".join(lines)


def with_table(readme: str, made: str) -> str:
    """The README with this table between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main() -> None:
    """Prints the table, or writes it."""
    made = table(rows())
    print(made)
    if "--write" in sys.argv[1:]:
        README.write_text(with_table(README.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main()
