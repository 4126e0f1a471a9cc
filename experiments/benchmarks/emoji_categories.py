"""Emoji in a folder for each category (food, flags, ...), which `igpt probe` and others read as classes.

    npm install emoji-datasource-google
    python experiments/benchmarks/emoji_categories.py node_modules/emoji-datasource-google --out emoji_categories
    igpt probe --model runs/emoji/best --source folder:emoji_categories --together 3 --per-class 4 25

Skin tones are left out, since they would be most of the pictures, and so is the category of the five tones themselves.
`igpt train emoji` holds out the same emoji as the probe, because both leave folders and tones out of the hash.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from igpt_jax import InputError

PICTURES = "img/google/64"
LEFT_OUT = "Component"


def main() -> None:
    """Copies the pictures, and says how many there are of each category."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the installed emoji-datasource-google")
    parser.add_argument("--out", type=Path, required=True, help="a directory that does not exist yet")
    args = parser.parse_args()
    try:
        counts = sort_emoji(args.package, args.out)
    except InputError as error:
        parser.error(str(error))
    for category, n in counts.items():
        print(f"{category}: {n}")


def sort_emoji(package: Path, out: Path) -> dict[str, int]:
    """Copies each emoji into the folder of its category.

    Returns:
      category -> how many pictures.

    Raises:
      InputError: this is no such package, or `out` exists.
    """
    try:
        entries = json.loads((package / "emoji.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{package}: {error}; npm install emoji-datasource-google makes it") from None
    if out.exists():
        raise InputError(f"--out {out}: exists; name a directory that does not")
    counts: dict[str, int] = {}
    for entry in entries:
        picture = package / PICTURES / entry["image"]
        if entry["category"] == LEFT_OUT or not picture.exists():
            continue
        category = entry["category"].lower().replace(" & ", "_and_").replace(" ", "_")
        (out / category).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, out / category)
        counts[category] = counts.get(category, 0) + 1
    return counts


if __name__ == "__main__":
    main()
