"""Restoration on held-out pictures beside classical methods, as a table of PSNR and SSIM with standard errors.

    python experiments/benchmarks/restoration.py --model runs/denoise --images 64 --out restoration.json

Each degradation of the run (data.degrade) has a table of its own. All methods see the same damaged pictures, and all
are scored against the clean pictures, which no palette has rounded. The model is not told the degradation; every other
method is, and its parameters are those with the best PSNR on damaged training pictures. Needs scikit-image.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import restoration

from igpt_jax import SamplerConfig, load_pretrained, restore
from igpt_jax.config import MeshConfig
from igpt_jax.config_json import json_text
from igpt_jax.data.degrade import make_damage, parse_spec
from igpt_jax.datasets import open_data
from igpt_jax.evaluation.quality import psnr_of_each, ssim_of_each
from igpt_jax.parallel.mesh import make_mesh

Method = Callable[[np.ndarray], np.ndarray]
"""Damaged pictures uint8 [B, Y, X, C] -> restored ones, uint8 of the same shape."""

TUNED_ON = 200
"""Training pictures on which parameters are chosen."""
LEARNED_ON = 4000
"""Training pictures that the learned methods are fitted to."""


def main() -> None:
    """Prints the tables and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a workdir of a run with objective restore")
    parser.add_argument("--images", type=int, default=64, help="held-out pictures")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--step", type=int, help="which checkpoint; by default the newest")
    parser.add_argument("--seed", type=int, default=0, help="of the damage and of the draws")
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    args = parser.parse_args()
    mesh = make_mesh(MeshConfig())
    weights = load_pretrained(args.model, step=args.step, mesh=mesh)
    data, palette = open_data(weights.config, mesh), weights.colors
    clean, training = data.images(data.held_out, args.images), data.images(data.train, LEARNED_ON)
    ceiling = np.asarray(palette.decode(np.asarray(palette.encode(clean))))
    figures: dict[str, Any] = {"model": args.model, "step": weights.step, "seed": args.seed, "images": len(clean)}
    for spec in weights.config.data.degrade:
        damaged = damage_all(spec, clean, (args.seed, 0))
        damaged_training = damage_all(spec, training, (args.seed, 1))
        results = {"damaged": damaged}
        for name, (method, how) in cheap_methods(spec, training, damaged_training).items():
            results[f"{name}{how}"] = method(damaged)
        sampler = SamplerConfig(seed=args.seed, batch_size=256)
        restored = restore(weights.model, weights.params, palette, damaged, args.draws, sampler=sampler)
        results["model, one draw"] = restored.draws[:, 0]
        results[f"model, mean of {args.draws} draws"] = restored.mean
        results["palette's ceiling"] = ceiling
        figures[spec] = table(spec, clean, results)
    if args.out is not None:
        args.out.write_text(json_text(figures, indent=2) + "\n")


def damage_all(spec: str, images: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """Every picture with damage of its own."""
    damage = make_damage([spec], train=True)
    assert damage is not None
    return np.stack([damage(image, np.random.default_rng((*seed, i))) for i, image in enumerate(images)])


def table(spec: str, clean: np.ndarray, results: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Prints a table in Markdown, and returns its figures."""
    print(f"\n| {spec} | PSNR, dB | SSIM | to the model, dB |\n|---|---|---|---|")
    mean = next(name for name in results if name.startswith("model, mean"))
    best, rows = psnr_of_each(clean, results[mean]), {}
    for name, images in results.items():
        psnr, ssim = psnr_of_each(clean, images), ssim_of_each(clean, images)
        values = {"psnr": psnr, "ssim": ssim, "model_minus_this": best - psnr}
        rows[name] = {key: estimate(x) for key, x in values.items()}
        cells = [f"{rows[name][key][0]:.{d}f} ± {rows[name][key][1]:.{d}f}" for key, d in (("psnr", 2), ("ssim", 3))]
        difference = "" if name == mean else "{:+.2f} ± {:.2f}".format(*rows[name]["model_minus_this"])
        print(f"| {name} | {' | '.join(cells)} | {difference} |", flush=True)
    return rows


def estimate(values: np.ndarray) -> tuple[float, float]:
    """Mean over pictures, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


# Cheap methods


def cheap_methods(spec: str, clean: np.ndarray, damaged: np.ndarray) -> dict[str, tuple[Method, str]]:
    """Name -> (tuned method, its parameters in words); tuned on training pictures with the damage of `spec`."""
    methods = {
        "total variation": best(total_variation, clean, damaged, weight=np.geomspace(0.005, 0.6, 15)),
        "non-local means": best(
            non_local_means, clean, damaged, h=np.geomspace(0.02, 0.6, 8), patch_size=(3, 5), patch_distance=(2, 4)
        ),
        "ridge regression": best_fit(Ridge, clean, damaged, side=(3, 5, 7, 9), penalty=(1e-5, 1e-3)),
        "network of one layer": best_fit(Network, clean, damaged, side=(7,), hidden=(128,)),
    }
    kind, strength, _ = parse_spec(spec)[0]
    if kind == "blur":
        methods["Wiener filter"] = best(wiener, clean, damaged, sigma=(strength,), balance=np.geomspace(1e-5, 1, 13))
        methods["unsupervised Wiener"] = best(unsupervised_wiener, clean, damaged, sigma=(strength,))
    if kind == "downsample":
        filters = ("BILINEAR", "BICUBIC", "LANCZOS")
        methods["enlarged"] = best(enlarge, clean, damaged, factor=(strength,), resample=filters)
    return methods


def best(
    function: Callable[..., np.ndarray], clean: np.ndarray, damaged: np.ndarray, **grid: Iterable[Any]
) -> tuple[Method, str]:
    """A function of one picture [Y, X, C] in 0..1, with the parameters that suit training pictures best."""

    def with_parameters(parameters: Mapping[str, Any]) -> Method:
        def method(images: np.ndarray) -> np.ndarray:
            return to_bytes(np.stack([function(image / 255, **parameters) for image in images]).reshape(images.shape))

        return method

    every = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    clean, damaged = clean[:TUNED_ON], damaged[:TUNED_ON]
    chosen = max(every, key=lambda parameters: psnr_of_each(clean, with_parameters(parameters)(damaged)).mean())
    return with_parameters(chosen), words(chosen)


def best_fit(
    learner: Callable[..., Any], clean: np.ndarray, damaged: np.ndarray, **grid: Iterable[Any]
) -> tuple[Method, str]:
    """A learned method, with the parameters that suit the training pictures best which it was not fitted to."""
    every = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    fitted = [(learner(clean[TUNED_ON:], damaged[TUNED_ON:], **parameters), parameters) for parameters in every]
    clean, damaged = clean[:TUNED_ON], damaged[:TUNED_ON]
    method, chosen = max(fitted, key=lambda pair: psnr_of_each(clean, pair[0](damaged)).mean())
    return method, words(chosen)


def words(parameters: Mapping[str, Any]) -> str:
    """Parameters for a table."""
    shown = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in parameters.items()}
    return "".join(f", {key} {value}" for key, value in shown.items())


def to_bytes(values: np.ndarray) -> np.ndarray:
    """0..1 -> uint8."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def total_variation(image: np.ndarray, weight: float) -> np.ndarray:
    """Chambolle's total variation denoising."""
    return restoration.denoise_tv_chambolle(image, weight=weight, channel_axis=-1)


def non_local_means(image: np.ndarray, h: float, patch_size: int, patch_distance: int) -> np.ndarray:
    """Means of similar patches."""
    options: dict[str, Any] = dict(patch_size=patch_size, patch_distance=patch_distance, fast_mode=False)
    return restoration.denoise_nl_means(image, h=h, channel_axis=-1, **options)


def wiener(image: np.ndarray, sigma: float, balance: float) -> np.ndarray:
    """Wiener's deconvolution, told the blur."""
    method: Any = restoration.wiener
    return deconvolved(image, sigma, lambda x, psf: method(x, psf, balance, clip=False))


def unsupervised_wiener(image: np.ndarray, sigma: float) -> np.ndarray:
    """The same, which estimates its own parameters."""
    method: Any = restoration.unsupervised_wiener
    return deconvolved(image, sigma, lambda x, psf: method(x, psf, clip=False, rng=0)[0])


def deconvolved(image: np.ndarray, sigma: float, method: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Each channel on its own, with its edges repeated, because the methods take pictures for periodic."""
    reach = int(np.ceil(4 * sigma))
    line = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    psf = np.outer(line, line) / line.sum() ** 2
    padded = np.pad(image, [(2 * reach, 2 * reach)] * 2 + [(0, 0)], "edge")
    channels = [method(padded[..., c], psf) for c in range(image.shape[2])]
    return np.stack(channels, axis=-1)[2 * reach : -2 * reach, 2 * reach : -2 * reach]


def enlarge(image: np.ndarray, factor: float, resample: str) -> np.ndarray:
    """The small picture behind a downsampled one, enlarged by a filter of Pillow's."""
    y, x = image.shape[:2]
    step = round(factor)
    small = [Image.fromarray(image[::step, ::step, c].astype(np.float32)) for c in range(image.shape[2])]
    chosen = Image.Resampling[resample]
    return np.stack([np.asarray(channel.resize((x, y), chosen)) for channel in small], axis=-1)


PHASES = 2
"""Downsampling by 2 treats pixels of even and odd rows and columns differently, so learned methods know which it is."""


def neighbourhoods(images: np.ndarray, side: int) -> np.ndarray:
    """float32 [B, Y, X, side * side * C]: the values around each pixel in -1..1, edges mirrored."""
    reach = side // 2
    padded = np.pad(images / np.float32(127.5) - 1, [(0, 0), (reach, reach), (reach, reach), (0, 0)], "symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    return windows.reshape(*images.shape[:3], -1)


class Ridge:
    """Linear regression from the damaged neighbourhood to the clean pixel, one for each phase."""

    def __init__(self, clean: np.ndarray, damaged: np.ndarray, side: int, penalty: float):
        self.side, self.weights = side, {}
        inputs, targets = neighbourhoods(damaged, side), clean / 127.5 - 1
        for phase in np.ndindex(PHASES, PHASES):
            x = self.features(inputs[:, phase[0] :: PHASES, phase[1] :: PHASES])
            y = targets[:, phase[0] :: PHASES, phase[1] :: PHASES].reshape(len(x), -1)
            gram = x.T @ x / len(x) + penalty * np.eye(x.shape[1])
            self.weights[phase] = np.linalg.solve(gram, x.T @ y / len(x))

    @staticmethod
    def features(inputs: np.ndarray) -> np.ndarray:
        """float64 [n, K + 1], with a constant."""
        flat = inputs.reshape(-1, inputs.shape[-1]).astype(np.float64)
        return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)

    def __call__(self, damaged: np.ndarray) -> np.ndarray:
        """Restored pictures."""
        inputs, out = neighbourhoods(damaged, self.side), np.empty(damaged.shape)
        for phase, weights in self.weights.items():
            part = inputs[:, phase[0] :: PHASES, phase[1] :: PHASES]
            out[:, phase[0] :: PHASES, phase[1] :: PHASES] = (self.features(part) @ weights).reshape(
                *part.shape[:3], -1
            )
        return to_bytes((out + 1) / 2)


class Network:
    """A network with one hidden layer from the neighbourhood, the phase and the place in the picture to the pixel."""

    def __init__(self, clean: np.ndarray, damaged: np.ndarray, side: int, hidden: int):
        from sklearn.neural_network import MLPRegressor

        self.side = side
        x, y = self.features(damaged), (clean / 127.5 - 1).reshape(-1, clean.shape[-1])
        options: dict[str, Any] = dict(batch_size=512, max_iter=3, learning_rate_init=2e-3, random_state=0)
        self.network: Any = MLPRegressor(hidden_layer_sizes=(hidden,), **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that three passes over the pixels have not converged
            self.network.fit(x, y.ravel() if y.shape[1] == 1 else y)

    def features(self, images: np.ndarray) -> np.ndarray:
        """float32 [n, K + 4]."""
        b, y, x, _ = images.shape
        rows, columns = np.meshgrid(np.arange(y), np.arange(x), indexing="ij")
        place = np.stack([rows / y, columns / x, rows % PHASES, columns % PHASES], axis=-1).astype(np.float32)
        place = np.broadcast_to(place, (b, y, x, 4))
        return np.concatenate([neighbourhoods(images, self.side), place], axis=-1).reshape(b * y * x, -1)

    def __call__(self, damaged: np.ndarray) -> np.ndarray:
        """Restored pictures."""
        return to_bytes((self.network.predict(self.features(damaged)).reshape(damaged.shape) + 1) / 2)


if __name__ == "__main__":
    main()
