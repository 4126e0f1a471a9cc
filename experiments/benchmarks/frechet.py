"""How near are drawn pictures to real ones? Fréchet distances in the features of a classifier that is trained here.

    python experiments/benchmarks/frechet.py --model runs/fashion_mnist --images 2000 --out frechet.json

The classifier is scikit-learn's MLPClassifier (hidden layers of 256 and 64) on the training pictures, as the model gets
them before the palette; the features are its last hidden layer. This is not FID, whose features are those of an
Inception network: figures compare with each other, of one source and one seed, and with nothing else. All rows have as
many pictures, because the distance falls with their number (Heusel et al., 2017, "GANs Trained by a Two Time-Scale
Update Rule Converge to a Local Nash Equilibrium", section 3 has the distance). Errors are standard deviations over
resampled pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.neural_network import MLPClassifier

from igpt_jax import InputError, SamplerConfig, load_pretrained, sample
from igpt_jax.datasets import open_data, subset

TRAINED_ON = 20_000
"""Training pictures that the classifier and the cheap methods learn from."""
RESAMPLED = 20


def main() -> None:
    """Prints the table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a run with images of its own, whose pictures have classes")
    parser.add_argument("--images", type=int, default=2000, help="of each row")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    args = parser.parse_args()
    try:
        weights = load_pretrained(args.model)
        data = open_data(weights.config)
    except InputError as error:
        parser.error(str(error))
    learned = subset(data.train, TRAINED_ON)
    train, labels = data.images(learned, TRAINED_ON), learned.labels
    real = data.images(data.held_out, args.images)
    if labels is None or len(set(labels)) < 2:
        parser.error(f"--model {args.model}: its images have no classes, which the classifier learns")
    n, rng = len(real), np.random.default_rng(args.seed)
    network = MLPClassifier((256, 64), max_iter=200, early_stopping=True, random_state=args.seed)
    network.fit(_flat(train), labels)
    held_out_labels = subset(data.held_out, args.images).labels
    print(f"the classifier names {network.score(_flat(real), held_out_labels):.3f} of {n} held-out pictures\n")
    rows = {
        "training pictures": train[rng.choice(len(train), n, replace=False)],
        "the held-out pictures, rounded to the palette": np.asarray(weights.colors.decode(weights.colors.encode(real))),
        "Gaussian with the covariance of all pixels": gaussian_draws(train, n, rng),
        "each pixel from a training picture of its own": independent_draws(train, n, rng),
    }
    for t in args.temperatures:
        settings = SamplerConfig(seed=args.seed, temperature=t)
        rows[f"model, temperature {t:g}"] = sample(weights.model, weights.params, weights.colors, n, sampler=settings)
    figures = {}
    print("| pictures | Fréchet distance |\n|---|---|")
    for name, pictures in rows.items():
        x, y = features(network, real), features(network, pictures)
        again = [frechet_distance(x[rng.integers(0, n, n)], y[rng.integers(0, n, n)]) for _ in range(RESAMPLED)]
        figures[name] = {"distance": frechet_distance(x, y), "error": float(np.std(again, ddof=1))}
        print(f"| {name} | {figures[name]['distance']:.2f} ± {figures[name]['error']:.2f} |", flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps({"images": n, "seed": args.seed, "rows": figures}, indent=2) + "\n")


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The squared Fréchet distance of the Gaussians with the means and covariances of two sets of features.

    |m - n|^2 + tr(A + B - 2 (A B)^(1/2)), of float [n, D] and [m, D]; more rows than dims for covariances of full rank.
    """
    a, b = np.cov(x.T), np.cov(y.T)
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # the eigenvalues of root b root are those of a b, and it is symmetric
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()
    return float(np.square(x.mean(axis=0) - y.mean(axis=0)).sum() + np.trace(a) + np.trace(b) - 2 * cross)


def features(network: MLPClassifier, pictures: np.ndarray) -> np.ndarray:
    """float64 [n, 64]: the last hidden layer."""
    x = _flat(pictures)
    for w, b in zip(network.coefs_[:-1], network.intercepts_[:-1], strict=True):
        x = np.maximum(x @ w + b, 0)
    return x


def gaussian_draws(train: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [n, Y, X, C] from the Gaussian with the mean and covariance of the training pictures."""
    x = train.reshape(len(train), -1).astype(np.float64)
    drawn = rng.multivariate_normal(x.mean(axis=0), np.cov(x.T), n, method="eigh")
    return np.rint(drawn.clip(0, 255)).astype(np.uint8).reshape(n, *train.shape[1:])


def independent_draws(train: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [n, Y, X, C]: each pixel has the histogram of its place, and knows nothing of the others."""
    y, x = np.indices(train.shape[1:3])
    return train[rng.integers(0, len(train), (n, *y.shape)), y, x]


def _flat(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(len(pictures), -1) / 255


if __name__ == "__main__":
    main()
