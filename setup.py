"""Packaging of igpt_jax: metadata, dependencies and extras. Lint, type and test settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="igpt_jax",
    version="0.1.0",
    description="Image GPT (Generative Pretraining from Pixels) in JAX and Flax",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["igpt_jax", "igpt_jax.*"]),
    package_data={"igpt_jax": ["py.typed"]},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12",
        "grain>=0.2.18",
        "numpy>=2.0",
        "annotated-types>=0.7",
        "dacite>=1.9",
        "filelock>=3.16",
        "matplotlib>=3.9",
        "pillow>=11",
        "pooch>=1.8",
        "requests>=2.32",
        "rich>=13",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.7",
        "tqdm",
        "importlib_resources",  # tensorflow-datasets uses it without declaring it
        "tyro>=1.0",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "enhance": ["scikit-image>=0.24", "PyWavelets"],  # data.denoise, data.enhance
        "openai": ["tensorflow"],  # also what tensorflow-datasets needs to prepare most image sets
        "hf": ["huggingface_hub"],
        "wandb": ["wandb"],
        "test": [
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist>=3.7",
            "chex>=0.1.90",
            "import-linter>=2",
            "scikit-image>=0.24",
            "PyWavelets",
        ],
        # what the suite compares with; torch is pinned so that a comparison means the same everywhere
        "parity": ["torch==2.13.0", "transformers>=5", "tensorflow>=2.20", "huggingface_hub"],
        "dev": ["ruff", "pyright[nodejs]"],
    },
    entry_points={"console_scripts": ["igpt = igpt_jax.cli:main"]},
)
