"""Exact sampling in fewer passes: passes per image, equality, and wall time beside one slot after another.

    python experiments/benchmarks/lookahead.py --model runs/digits --windows 8 16 32 --images 256 --times 1 8 64

Every image is compared with the one that ordinary decoding draws. For each batch size of --times both ways draw the
same images in turn, --repeats times; the table has medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from igpt_jax import InputError, SamplerConfig, load_pretrained
from igpt_jax.keys import fold_in, stream
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.sampling.decode import decode
from igpt_jax.sampling.draft import Draft
from igpt_jax.sampling.lookahead import decode_ahead
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules, rules_of


def main() -> None:
    """Prints the tables and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--windows", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0])
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--images", type=int, default=256, help="new images of which passes are counted")
    parser.add_argument("--times", type=int, nargs="*", default=[], help="batch sizes that are timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--without-network", action="store_true", help="guess that neighbours are alike")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    args = parser.parse_args()
    try:
        weights = load_pretrained(args.model)
    except InputError as error:
        parser.error(str(error))
    compute = replace(weights.model.compute, dtype=args.dtype)
    model, params = weights.model.clone(compute=compute), weights.params
    draft = None if args.without_network else weights.draft
    t = model.cfg.n_ctx
    counted, timed = [], []
    print(f"{args.images} images of {t} tokens, on {jax.devices()[0].device_kind}; network: {draft is not None}\n")
    print("| temperature | window | passes, mean | fewest | most | fewer by | images that differ |")
    print("|---|---|---|---|---|---|---|")
    for temperature in args.temperatures:
        rules = rules_of(SamplerConfig(temperature=temperature, top_k=args.top_k))
        expected = in_turn(model, params, rules, args.images)
        for window in args.windows:
            drawn, passes = ahead(model, params, rules, args.images, window, draft)
            differ = int((drawn != expected).any(axis=1).sum())
            row = {"temperature": temperature, "window": window, "passes": passes.tolist(), "differ": differ}
            counted.append(row)
            cells = [temperature, window, f"{passes.mean():.1f}", passes.min(), passes.max()]
            print(f"| {' | '.join(map(str, [*cells, f'{t / passes.mean():.2f}x', differ]))} |", flush=True)
    for batch in args.times:
        rules = rules_of(SamplerConfig(temperature=args.temperatures[0], top_k=args.top_k))
        seconds = race(model, params, rules, batch, args.windows, args.repeats, draft)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        timed.append({"batch": batch, "seconds": seconds})
        ratios = [f"{name} {s:.3f} s ({medians['one by one'] / s:.2f}x)" for name, s in medians.items()]
        print(f"batch {batch}: {', '.join(ratios)}", flush=True)
    if args.out is not None:
        device = jax.devices()[0].device_kind
        args.out.write_text(json.dumps({"device": device, "tokens": t, "passes": counted, "times": timed}) + "\n")


def new_images(model: ImageGPT, n: int) -> tuple[Prompt, jax.Array]:
    """A prompt in which nothing is known, and one key an image."""
    t = model.cfg.n_ctx
    class_id = np.zeros(n, np.int32) if model.cfg.cond_classes else None
    prompt = Prompt(np.zeros((n, t), np.int32), np.zeros((n, t), bool), class_id=class_id)
    return prompt, fold_in(stream(0, "sample"), np.arange(n))


def in_turn(model: ImageGPT, params: Params, rules: Rules, n: int) -> np.ndarray:
    """int32 [n, T], drawn one slot after another."""
    return np.asarray(decode(model, params, *new_images(model, n), rules))


def ahead(
    model: ImageGPT, params: Params, rules: Rules, n: int, window: int, draft: Draft | None
) -> tuple[np.ndarray, np.ndarray]:
    """int32 [n, T] drawn with guesses, and the passes of each image."""
    drawn, passes = decode_ahead(model, params, *new_images(model, n), rules, 0, window, draft)
    return np.asarray(drawn), np.asarray(passes)


def race(
    model: ImageGPT, params: Params, rules: Rules, n: int, windows: list[int], repeats: int, draft: Draft | None
) -> dict[str, list[float]]:
    """Way to draw -> seconds of each repeat; all ways in turn, after one run each that compiles."""
    ways: dict[str, Any] = {"one by one": lambda: in_turn(model, params, rules, n)}
    ways |= {f"window {w}": lambda w=w: ahead(model, params, rules, n, w, draft) for w in windows}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, draw in ways.items():
            begin = time.perf_counter()
            draw()
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


if __name__ == "__main__":
    main()
