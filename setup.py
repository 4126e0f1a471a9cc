"""Packaging of igpt_jax: metadata, dependencies and extras. Lint, type and test settings are in pyproject.toml.

The lower bounds are what the suite was run with once: constraints/lowest.txt.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="igpt_jax",
    version=re.findall(r'__version__ = "(.+)"', (HERE / "igpt_jax/version.py").read_text(encoding="utf-8"))[0],
    description="Image GPT (Generative Pretraining from Pixels) in JAX and Flax",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The igpt_jax authors",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["image generation", "autoregressive", "transformer", "JAX", "Flax", "Image GPT"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["igpt_jax", "igpt_jax.*"]), "igpt_jax.experiments", "igpt_jax.experiments.paper"],
    package_dir={"igpt_jax.experiments": "experiments"},  # at the top level of a checkout
    install_requires=[  # what `igpt train digits` needs, with its pictures
        "jax>=0.10.1",
        "flax>=0.12.7",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12",
        "grain>=0.2.18",
        "numpy>=2.0",
        "annotated-types>=0.7",
        "dacite>=1.9.1",
        "filelock>=3.16",
        "markdown-it-py>=2.2",  # comes with rich
        "pillow>=11",
        "rich>=13",
        "safetensors>=0.8",
        "scikit-learn>=1.5",
        "scipy>=1.14",
        "tensorboardX>=2.6.1",
        "tyro>=1.0.14,<1.1",  # cli/parse.py reads its box of an error
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tfds": ["tensorflow-datasets>=4.9.10", "importlib_resources"],  # it uses the latter without declaring it
        "plot": ["matplotlib>=3.9"],  # loss.png
        "video": ["av>=14.2"],  # clips:PATH, igpt video to mp4
        "jxl": ["pillow-jxl-plugin"],  # igpt eval --lossless
        "enhance": ["scikit-image>=0.24", "PyWavelets"],  # data.denoise, data.enhance
        # igpt fetch, and what it fetches; tensorflow-datasets, too, needs TensorFlow to prepare most image sets
        "openai": ["tensorflow", "pooch>=1.8", "requests>=2.32.2", "tqdm>=4.66"],
        "hf": ["huggingface_hub"],
        "wandb": ["wandb"],
        "test": [
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist>=3.7",
            "chex>=0.1.90",
            "import-linter>=2",
            "pooch>=1.8",
            "requests>=2.32.2",
            "tqdm>=4.66",
            "matplotlib>=3.9",
            "setuptools>=77",  # builds the wheel that a test looks into
            "av>=14.2",
            "scikit-image>=0.24",
            "PyWavelets",
            "pillow-jxl-plugin",
            "tensorflow-datasets>=4.9.10",
            "importlib_resources",
        ],
        # what the suite compares with; torch is pinned so that a comparison means the same everywhere
        "parity": ["torch==2.13.0", "transformers>=5.24", "tensorflow>=2.20", "huggingface_hub"],
        "peers": ["torch==2.13.0", "transformers>=5.24"],  # experiments/peers
        "dev": ["ruff", "pyright[nodejs]"],
    },
    entry_points={"console_scripts": ["igpt = igpt_jax.cli:run_and_exit"]},
)
