"""Moving digits: a trained model beside cheap methods on held-out clips, as a table and as JSON.

    python experiments/benchmarks/video.py --model runs/moving_digits --out video.json

Likelihood, in nats per token: the model; counts of pixels around, in this frame and in the one before, moved by the
motion that fits what is known already (blended as Witten and Bell do; which pixels, is chosen on training clips, with
two simpler choices beside it); and histograms of every position. Prediction of the next frame, in dB against the
original: the model, copying the last frame, and moving it on by the motion of the two last frames. Standard errors are
over clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import igpt_jax
from igpt_jax.analysis.baselines.counts import blended_counts, histogram_nats
from igpt_jax.config_json import json_text
from igpt_jax.data.sources import Windows, open_source
from igpt_jax.datasets import preprocess_for_eval
from igpt_jax.objectives import token_nats
from igpt_jax.sequence import raster_inputs

Features = dict[str, np.ndarray]
"""Name -> int [N, L, Y, X]: something about each token that is known before it is drawn."""


CHOSEN = "counts of the pixels chosen"
SIMPLE_CHAINS = {
    "counts of W, N, NE, NW": ["W", "N", "NE", "NW"],
    "counts of W, N, the pixel before and the moved one": ["before 2: best", "W", "N", "previous"],
}


@dataclass(frozen=True)
class Args:
    """Options."""

    model: str
    """Workdir of a run on moving digits."""
    out: Path
    """The figures as JSON."""
    count: int = 12_000
    """Windows of training clips that are counted."""
    choose: int = 1500
    """Of these, so many decide which pixels are counted."""
    clips: int = 500
    """Held-out clips for the likelihood."""
    drawn: int = 100
    """Held-out clips whose next frame is drawn."""
    known: int = 3
    """Frames before the next one."""
    radius: int = 1
    """The largest motion in pixels a frame that is looked for."""
    step: int | None = None
    """Checkpoint; by default the newest."""


def main(args: Args) -> None:
    """Measures, prints and writes."""
    weights = igpt_jax.load_pretrained(args.model, step=args.step)
    cfg, palette = weights.config, weights.colors
    train = open_source(cfg.data, "train", cfg.model.n_frame)
    held_out = open_source(cfg.data, "eval", cfg.model.n_frame)
    assert isinstance(train, Windows)
    rng = np.random.default_rng(0)
    windows = [train.draw(i % len(train), rng)["image"] for i in range(args.count)]
    clips = preprocess_for_eval(cfg, (held_out[i]["image"] for i in range(args.clips)))
    counted, tokens = (
        np.asarray(palette.encode(x)).astype(np.int8) for x in (preprocess_for_eval(cfg, windows), clips)
    )

    names, counts = counts_nats(counted, tokens, palette.size, args)
    nats = {"model": model_nats(weights, tokens), **counts}
    nats["histograms per position"] = histogram_nats(counted, tokens, palette.size)
    frames = clips[: args.drawn]
    errors = frame_errors(weights, counted, frames, args)
    result = {
        "clips": args.clips,
        "step": weights.step,
        "counted": names,
        "nats_per_token": {name: likelihood_row(x, nats["model"]) for name, x in nats.items()},
        "next_frame_db": {name: decibels(x) for name, x in errors.items()},
    }
    args.out.write_text(json_text(result, indent=2))
    print_tables(result)


# Likelihood


def model_nats(weights: Any, tokens: np.ndarray, batch: int = 20) -> np.ndarray:
    """[N, L, Y, X]: nats of every token."""

    @jax.jit
    def measure(params: Any, tokens_BT: jax.Array) -> jax.Array:
        logits: Any = weights.model.apply({"params": params}, raster_inputs(tokens_BT))
        return token_nats(logits, tokens_BT)

    flat = tokens.reshape(len(tokens), -1).astype(np.int32)
    parts = [np.asarray(measure(weights.params, flat[i : i + batch])) for i in range(0, len(flat), batch)]
    return np.concatenate(parts).reshape(tokens.shape)


def counts_nats(
    counted: np.ndarray, tokens: np.ndarray, size: int, args: Args
) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """The pixels that were chosen; and the nats of every token under counts, blended, of these and of simpler ones.

    The first frame, the second and the others have chains of their own, since fewer frames are before them. A chain is
    built greedily: the next pixel is the one that helps most on training clips that are not counted then.
    """
    train, test = (pixel_features(x, args.radius) for x in (counted, tokens))
    names: dict[str, list[str]] = {}
    nats = {name: np.zeros(tokens.shape) for name in (CHOSEN, *SIMPLE_CHAINS)}
    for part, frames in (("first frame", slice(0, 1)), ("second frame", slice(1, 2)), ("others", slice(2, None))):
        train_part, test_part = ({k: x[:, frames] for k, x in features.items()} for features in (train, test))
        names[part] = choose_chain(train_part, counted[:, frames], size, args.choose)
        for name, chain in {CHOSEN: names[part], **SIMPLE_CHAINS}.items():
            flat = [[features[k].ravel() for k in chain] for features in (train_part, test_part)]
            probs = blended_counts(flat[0], counted[:, frames].ravel(), flat[1], tokens[:, frames].ravel(), size)
            nats[name][:, frames] = -np.log(probs).reshape(tokens[:, frames].shape)
    return names, nats


def choose_chain(features: Features, tokens: np.ndarray, size: int, n: int) -> list[str]:
    """The names of the features that lower the nats on a third of n clips, counted on the others; best first."""
    split = n * 2 // 3
    kept, tested = ({k: x[part].ravel() for k, x in features.items()} for part in (slice(split), slice(split, n)))
    labels, wanted = tokens[:split].ravel(), tokens[split:n].ravel()
    chain: list[str] = []
    best = math.inf

    def nats(names: Sequence[str]) -> float:
        parts = ([part[k] for k in names] for part in (kept, tested))
        known, asked = parts
        return -float(np.log(blended_counts(known, labels, asked, wanted, size)).mean())

    while len(chain) < len(features):
        scores = {name: nats([*chain, name]) for name in features if name not in chain}
        name = min(scores, key=lambda k: scores[k])
        if scores[name] > best - 1e-4:
            break
        best = scores[name]
        chain.append(name)
    return chain


# Pixels around, and motion


def shifted(x: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """The pixel at (y - dy, x - dx) of each frame, 0 (black) outside."""
    (rows, cols), out = x.shape[-2:], np.zeros_like(x)
    y, z = slice(max(dy, 0), rows + min(dy, 0)), slice(max(dx, 0), cols + min(dx, 0))
    from_y, from_z = slice(max(-dy, 0), rows + min(-dy, 0)), slice(max(-dx, 0), cols + min(-dx, 0))
    out[..., y, z] = x[..., from_y, from_z]
    return out


def before(x: np.ndarray, frames: int = 1) -> np.ndarray:
    """The frame so many frames ago; zeros where there is none."""
    out = np.zeros_like(x)
    out[:, frames:] = x[:, :-frames]
    return out


def motions(radius: int) -> list[tuple[int, int]]:
    """All motions of up to so many pixels, the smallest first."""
    steps = range(-radius, radius + 1)
    return sorted(((dy, dx) for dy in steps for dx in steps), key=lambda v: (v[0] ** 2 + v[1] ** 2, v))


def motion_costs(tokens: np.ndarray, radius: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """How badly each motion fits what is known before a token: int [V, N, L, Y, X] each.

    The first is over the rows above and the pixels to the left in the same frame, against the frame before. The second
    is over the block in the frame before which the motion brings here, against the frame before that.
    """
    previous, templates, blocks = before(tokens), [], []
    for dy, dx in motions(radius):
        difference = np.abs(tokens.astype(np.int16) - shifted(previous, dy, dx))
        template, block = np.zeros_like(difference), np.zeros_like(difference)
        for y in range(-side, side + 1):
            for x in range(-side, side + 1):
                if y < 0 or (y == 0 and x < 0):
                    template += shifted(difference, -y, -x)
                block += shifted(difference, -y, -x)
        templates.append(template)
        blocks.append(shifted(before(block), dy, dx))
    return np.stack(templates), np.stack(blocks)


def pixel_features(tokens: np.ndarray, radius: int, batch: int = 1000) -> Features:
    """What the counts may look at."""
    parts = [_pixel_features(tokens[i : i + batch], radius) for i in range(0, len(tokens), batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _pixel_features(tokens: np.ndarray, radius: int) -> Features:
    previous = before(tokens)
    around = {"W": (0, 1), "N": (1, 0), "NW": (1, 1), "NE": (1, -1), "WW": (0, 2), "NN": (2, 0)}
    features = {name: shifted(tokens, dy, dx) for name, (dy, dx) in around.items()}
    features["previous"] = previous
    rows, cols = np.indices(tokens.shape[-2:]).astype(np.int8)
    features["row"], features["column"] = np.broadcast_to(rows, tokens.shape), np.broadcast_to(cols, tokens.shape)
    candidates = np.stack([shifted(previous, dy, dx) for dy, dx in motions(radius)])

    def add(name: str, cost: np.ndarray, errors: bool = False) -> np.ndarray:
        """The pixels that the best and the second motion bring here, and how well the best fits."""
        order = np.argsort(cost, axis=0, kind="stable")[:2]
        best, second = np.take_along_axis(candidates, order, axis=0)
        features[f"{name}: best"], features[f"{name}: second"] = best, second
        if errors:
            least = np.take_along_axis(cost, order[:1], axis=0)[0]
            features[f"{name}: error"] = np.digitize(least, (1, 3, 6, 12)).astype(np.int8)
        return order[0]

    for side in (1, 2, 3):
        template, block = motion_costs(tokens, radius, side)
        add(f"here {side}", template, errors=True)
        add(f"before {side}", block, errors=True)
        best = add(f"both {side}", 2 * template + block, errors=True)
        if side == 2:  # the pixels beside the one that the best motion brings here
            for name, (dy, dx) in {"E": (0, -1), "S": (-1, 0)}.items():
                moved = np.stack([shifted(previous, vy + dy, vx + dx) for vy, vx in motions(radius)])
                features[f"both 2: {name} of best"] = np.take_along_axis(moved, best[None], axis=0)[0]
    return features


# Prediction of the next frame


def frame_errors(weights: Any, counted: np.ndarray, clips: np.ndarray, args: Args) -> dict[str, np.ndarray]:
    """Name -> the mean squared error of the next frame, [N], against the original of 256 levels."""
    known, wanted = clips[:, : args.known], clips[:, args.known].astype(np.float64)
    palette, decoded = weights.colors, lambda x: np.asarray(weights.colors.decode(x))
    drawn = igpt_jax.continue_clip(weights.model, weights.params, palette, known, 1, 8)[:, :, -1].astype(np.float64)
    levels = decoded(counted[:300]).astype(np.int16)[..., 0]

    def moved(x: np.ndarray, side: int) -> np.ndarray:
        """The frame after the known ones, by the motion of the two last."""
        longer = np.concatenate([x, np.zeros_like(x[:, :1])], axis=1)
        _, block = motion_costs(longer, args.radius, side)
        best = np.argmin(block[:, :, -1], axis=0)
        candidates = np.stack([shifted(x[:, -1], dy, dx) for dy, dx in motions(args.radius)])
        return np.take_along_axis(candidates, best[None], axis=0)[0]

    def tuning(side: int) -> float:
        return float(np.square(moved(levels[:, : args.known], side) - levels[:, args.known]).mean())

    side = min((1, 2, 3, 4), key=tuning)
    predictions: Mapping[str, np.ndarray] = {
        "model, mean of 8 draws": drawn.mean(axis=1),
        "model, one draw": drawn[:, 0],
        "copy of the last frame": known[:, -1],
        f"constant velocity (blocks of {2 * side + 1})": moved(known[..., 0].astype(np.int16), side)[..., None],
        "the palette itself": decoded(palette.encode(clips[:, args.known])),
    }
    return {name: np.square(x - wanted).mean(axis=(1, 2, 3)) for name, x in predictions.items()}


# Figures


def mean_and_error(x: np.ndarray) -> tuple[float, float]:
    """The mean over clips, and its standard error."""
    return float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x)))


def likelihood_row(nats: np.ndarray, model: np.ndarray) -> dict[str, Any]:
    """Means over all frames, the first, the second and the others; and the difference to the model, by clips."""
    parts: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "all": lambda x: x.mean(axis=(1, 2, 3)),
        "first": lambda x: x[:, 0].mean(axis=(1, 2)),
        "second": lambda x: x[:, 1].mean(axis=(1, 2)),
        "others": lambda x: x[:, 2:].mean(axis=(1, 2, 3)),
        "minus model": lambda x: (x - model).mean(axis=(1, 2, 3)),
    }
    return {name: mean_and_error(part(nats)) for name, part in parts.items()}


def decibels(errors: np.ndarray) -> tuple[float, float]:
    """PSNR of the mean error (single clips may be exact), and its standard error to first order."""
    mean, error = mean_and_error(errors)
    return 10 * math.log10(255**2 / mean), 10 / math.log(10) * error / mean


def print_tables(result: Mapping[str, Any]) -> None:
    """Two tables in Markdown."""
    rows = result["nats_per_token"]
    columns = list(next(iter(rows.values())))
    print(
        f"| nats per token, {result['clips']} clips | {' | '.join(columns)} |",
        "|---" * (1 + len(columns)) + "|",
        sep="\n",
    )
    for name, row in rows.items():
        print(f"| {name} |", " | ".join(f"{mean:.4f} ± {error:.4f}" for mean, error in row.values()), "|")
    print("\n| next frame | dB |\n|---|---|")
    for name, (mean, error) in result["next_frame_db"].items():
        print(f"| {name} | {mean:.2f} ± {error:.2f} |")
    for name, chain in result["counted"].items():
        print(f"\ncounted in the {name}: {', '.join(chain)}")


if __name__ == "__main__":
    main(tyro.cli(Args))
