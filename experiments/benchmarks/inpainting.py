"""Holes of held-out pictures, filled by models and by cheap methods: PSNR, SSIM and nats, with standard errors.

    python experiments/benchmarks/inpainting.py --any-order runs/any --raster runs/raster --ardm runs/ardm \\
        --images 100 --out inpainting.json

All see the same holes and are scored against the original pictures, which no palette has rounded. PSNR is that of the
missing pixels of all pictures together, since a hole in a black background may be filled without any error; its
standard error is over pictures. Every cheap method has the parameter with the best PSNR on training pictures. Needs
scikit-image, and OpenCV (pip install opencv-python-headless) for Telea's method.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax import SamplerConfig, inpaint, load_pretrained
from igpt_jax.datasets import open_data
from igpt_jax.evaluation.orders import HOLES, nats_in_order
from igpt_jax.evaluation.quality import ssim_of_each
from igpt_jax.keys import fold_in
from igpt_jax.objectives import token_nats
from igpt_jax.pretrained import Pretrained
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import rules_of
from igpt_jax.sampling.smc import smc
from igpt_jax.sequence import masked_inputs

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(pictures uint8 [B, Y, X, C], known bool [B, Y, X]) -> pictures with other values where not known, any float."""

TUNED_ON = 200
"""Training pictures on which parameters are chosen."""
LEARNED_ON = 20_000
"""Training pictures that the learned methods are fitted to."""
SMC_NATS_PARTICLES = 256


def main() -> None:
    """Prints the tables and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("any-order", "raster", "ardm"):
        parser.add_argument(f"--{name}", help=f"a workdir of a model of this kind ({name})")
    parser.add_argument("--holes", nargs="+", choices=HOLES, default=list(HOLES), help="kinds of holes")
    parser.add_argument("--images", type=int, default=100, help="held-out pictures")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--particles", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the holes and of the draws")
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    args = parser.parse_args()
    models = {k: load_pretrained(w) for k in ("any_order", "raster", "ardm") if (w := getattr(args, k)) is not None}
    first = next(iter(models.values()))
    data = open_data(first.config)
    images, training = data.images(data.held_out, args.images), data.images(data.train, LEARNED_ON)
    steps = {name: weights.step for name, weights in models.items()}
    figures: dict[str, Any] = {"steps": steps, "seed": args.seed, "images": len(images), "particles": args.particles}
    for name in args.holes:
        make = HOLES[name]
        known, known_training = (
            ~holes_of(make, first.config.model.grid, (args.seed, half), n)
            for half, n in ((0, len(images)), (1, TUNED_ON))
        )
        filled = {}
        for label, fill in cheap_methods(training, known_training).items():
            filled[label] = pasted(images, known, fill(images, known))
        nats = {}
        for kind, weights in models.items():
            for method in {"any_order": ("any_order", "clamp"), "raster": ("clamp", "smc"), "ardm": ("ardm",)}[kind]:
                label = f"{kind}, {method}"
                mean, draw = model_fill(weights, method, images, known, args)
                filled[f"{label}, mean of {args.draws} draws"], filled[f"{label}, one draw"] = mean, draw
                nats[f"{label}, mean of {args.draws} draws"] = hole_nats(weights, method, images, known, args)
        palette = first.colors
        filled["palette's ceiling"] = pasted(images, known, palette.decode(np.asarray(palette.encode(images))))
        figures[name] = table(name, images, known, filled, nats)
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


def holes_of(make: Any, grid: tuple[int, ...], seed: tuple[int, int], n: int) -> np.ndarray:
    """bool [n, Y, X]: a hole for each picture."""
    keys = fold_in(fold_in(jax.random.key(seed[0]), seed[1]), np.arange(n))
    return np.stack([np.asarray(make(key, grid)) for key in keys])


def pasted(images: np.ndarray, known: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """uint8: the pictures, with `filled` where they are not known."""
    return np.where(known[..., None], images, np.clip(np.rint(filled), 0, 255).astype(np.uint8))


def error_of_each(images: np.ndarray, known: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """float64 [B]: the mean squared error of each picture's missing pixels."""
    squared = np.square(images.astype(np.float64) - filled).mean(axis=-1) * ~known
    return squared.sum(axis=(1, 2)) / (~known).sum(axis=(1, 2))


def decibel(error_B: np.ndarray) -> tuple[float, float]:
    """PSNR of the mean error, and its standard error over pictures to first order."""
    mean = error_B.mean()
    standard_error = error_B.std(ddof=1) / np.sqrt(len(error_B))
    return float(10 * np.log10(255**2 / mean)), float(10 / np.log(10) * standard_error / mean)


def table(
    name: str, images: np.ndarray, known: np.ndarray, filled: dict[str, np.ndarray], nats: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Prints a table in Markdown, and returns its figures."""
    print(f"\n| {name}: {(~known).mean():.0%} missing | PSNR, dB | SSIM | nats per missing pixel |\n|---|---|---|---|")
    rows = {}
    for label, pictures in filled.items():
        psnr, ssim = decibel(error_of_each(images, known, pictures)), ssim_of_each(images, pictures)
        row = {"psnr": psnr, "ssim": (float(ssim.mean()), float(ssim.std(ddof=1) / np.sqrt(len(ssim))))}
        words = [f"{row['psnr'][0]:.2f} ± {row['psnr'][1]:.2f}", f"{row['ssim'][0]:.3f} ± {row['ssim'][1]:.3f}", ""]
        if label in nats:
            row["nats"] = (float(nats[label].mean()), float(nats[label].std(ddof=1) / np.sqrt(len(images))))
            words[-1] = f"{row['nats'][0]:.4f} ± {row['nats'][1]:.4f}"
        rows[label] = row
        print(f"| {label} | {' | '.join(words)} |", flush=True)
    return rows


# Models


def model_fill(
    weights: Pretrained, method: str, images: np.ndarray, known: np.ndarray, args: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the draws, and the first of them."""
    sampler = SamplerConfig(seed=args.seed, method=method, particles=args.particles, batch_size=256)
    result = inpaint(weights.model, weights.params, weights.colors, images, known, args.draws, sampler=sampler)
    return result.mean, result.draws[:, 0]


def hole_nats(weights: Pretrained, method: str, images: np.ndarray, known: np.ndarray, args: Any) -> np.ndarray:
    """float64 [B]: -log p of the missing tokens by the distribution that a method draws from, per missing pixel.

    For clamp it is that of each missing pixel given those before it. For smc it is log p(all) - log p(known), the
    second estimated with particles.
    """
    tokens = np.asarray(weights.colors.encode(images)).reshape(len(images), -1)
    known_BT = known.reshape(len(images), -1)
    missing_B = (~known_BT).sum(axis=1)
    raster_T = np.arange(tokens.shape[1])[None]
    if method == "ardm":
        return ardm_nats(weights, tokens, known_BT, args.seed) / missing_B
    order = np.argsort(~known_BT, axis=1, kind="stable") if method == "any_order" else raster_T.repeat(len(tokens), 0)
    run = jax.jit(lambda t, o: nats_in_order(weights.model, weights.params, t, o))
    nats_BT = np.asarray(run(tokens, order), np.float64)
    if method != "smc":
        return (nats_BT * ~np.take_along_axis(known_BT, order, axis=1)).sum(axis=1) / missing_B
    log_known = []
    for i in range(0, len(tokens), 4):
        prompt = Prompt(tokens[i : i + 4], known_BT[i : i + 4])
        keys = fold_in(jax.random.key(args.seed), np.arange(i, i + len(prompt.tokens)))
        plain = rules_of(SamplerConfig())
        log_known.append(smc(weights.model, weights.params, prompt, keys, plain, SMC_NATS_PARTICLES, 1)[1])
    return (nats_BT.sum(axis=1) + np.concatenate(log_known)) / missing_B


def ardm_nats(weights: Pretrained, tokens: np.ndarray, known_BT: np.ndarray, seed: int) -> np.ndarray:
    """float64 [B]: -log p of the missing tokens in one random order, one pass for each."""
    rng = np.random.default_rng(seed)
    order = np.argsort(np.where(known_BT, -1.0, rng.random(known_BT.shape)), axis=1, kind="stable")
    rows = np.arange(len(tokens))

    @jax.jit
    def nats(seen_BT: Any, position_B: Any) -> Any:
        logits: Any = weights.model.apply({"params": weights.params}, masked_inputs(jnp.asarray(tokens), seen_BT))
        return token_nats(logits[rows, position_B], jnp.asarray(tokens)[rows, position_B])

    total, seen = np.zeros(len(tokens)), known_BT.copy()
    for slot in range(int(known_BT.sum(axis=1).min()), tokens.shape[1]):
        position = order[:, slot]
        total += np.where(seen[rows, position], 0.0, np.asarray(nats(seen, position), np.float64))
        seen[rows, position] = True
    return total


# Cheap methods


def cheap_methods(training: np.ndarray, known_tuning: np.ndarray) -> dict[str, Fill]:
    """Label with the parameter chosen -> method."""
    tuning, learning = training[-len(known_tuning) :], training[: -len(known_tuning)]
    telea = best(lambda radius: Telea(radius), (1, 2, 3, 5), tuning, known_tuning)
    gauss = best(lambda penalty: Gaussian(learning, penalty), (1.0, 10.0, 100.0, 1000.0), tuning, known_tuning)
    nearest = best(lambda k: Nearest(learning, k), (4, 16, 64), tuning, known_tuning)
    mean = learning.mean(axis=0)
    return {
        "mean picture": lambda images, known: np.broadcast_to(mean, images.shape),
        "biharmonic": biharmonic,
        f"Telea, radius {telea[0]}": telea[1],
        f"{nearest[0]} training pictures nearest in what is known": nearest[1],
        f"linear regression on all known pixels, penalty {gauss[0]}": gauss[1],
    }


def best(
    make: Callable[[Any], Fill], choices: Iterable[Any], images: np.ndarray, known: np.ndarray
) -> tuple[Any, Fill]:
    """The parameter with the smallest error, and its method."""
    methods = {choice: make(choice) for choice in choices}
    errors = {
        c: error_of_each(images, known, pasted(images, known, m(images, known))).mean() for c, m in methods.items()
    }
    chosen = min(errors, key=lambda choice: errors[choice])
    return chosen, methods[chosen]


def biharmonic(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The smoothest surface through the known pixels (Damelin and Hoang, 2018)."""
    from skimage.restoration import inpaint_biharmonic

    return np.stack(
        [255 * inpaint_biharmonic(x / 255, ~k, channel_axis=-1) for x, k in zip(images, known, strict=True)]
    )


class Telea:
    """Fast marching (Telea, 2004), of OpenCV."""

    def __init__(self, radius: float):
        self.radius = radius

    def __call__(self, images: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Filled pictures."""
        cv2: Any = importlib.import_module("cv2")
        out = [
            cv2.inpaint(np.ascontiguousarray(x), (~k).astype(np.uint8), self.radius, cv2.INPAINT_TELEA)
            for x, k in zip(images, known, strict=True)
        ]
        return np.stack(out).reshape(images.shape)


class Gaussian:
    """The best linear prediction of the missing pixels from all known ones: a normal distribution of whole pictures."""

    def __init__(self, learning: np.ndarray, penalty: float):
        flat = learning.reshape(len(learning), -1).astype(np.float64)
        self.mean, self.covariance = flat.mean(axis=0), np.cov(flat.T) + penalty * np.eye(flat.shape[1])

    def __call__(self, images: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Filled pictures."""
        out = images.reshape(len(images), -1).astype(np.float64)
        for row, k in zip(out, known.repeat(images.shape[-1], axis=-1).reshape(len(out), -1), strict=True):
            inner = np.linalg.solve(self.covariance[np.ix_(k, k)], row[k] - self.mean[k])
            row[~k] = self.mean[~k] + self.covariance[np.ix_(~k, k)] @ inner
        return out.reshape(images.shape)


class Nearest:
    """The mean of those training pictures that are nearest in the known pixels."""

    def __init__(self, learning: np.ndarray, k: int):
        self.pictures, self.k = learning.reshape(len(learning), -1).astype(np.float32), k

    def __call__(self, images: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Filled pictures."""
        out = []
        for image, mask in zip(images, known.repeat(images.shape[-1], axis=-1).reshape(len(images), -1), strict=True):
            distance = np.square(self.pictures[:, mask] - image.reshape(-1)[mask]).sum(axis=1)
            out.append(self.pictures[np.argpartition(distance, self.k)[: self.k]].mean(axis=0))
        return np.stack(out).reshape(images.shape)


if __name__ == "__main__":
    main()
