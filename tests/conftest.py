"""Every test runs on eight fake CPU devices, with rank promotion an error and one shared compilation cache."""

import os
import shutil
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",  # compiles in two thirds of the time; test models are tiny
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "igpt_jax_test_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# One place for tolerances; a change that alters numerics does not loosen them.
F32_ATOL = 2e-5
BF16_ATOL = 3e-2


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(0)


def randomized(params, scale):
    """The parameters with noise on every one of them, so that none hides behind a zero or a one."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + scale * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys)]
    return jax.tree.unflatten(structure, noisy)


@pytest.fixture(scope="session")
def tiny():
    """(model, params): two layers on an 8 x 8 grid, every tensor random and of some size."""
    import jax.numpy as jnp

    from igpt_jax import ImageGPT, ModelConfig

    model = ImageGPT(ModelConfig.preset("tiny"))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, model.cfg.n_ctx), jnp.int32))["params"]
    return model, randomized(params, 0.2)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """(name, make) -> the directory that `make(path)` makes, once for all workers. Copy it to change it."""
    from filelock import FileLock

    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def directory(name, make):
        path, partial = root / name, root / f"{name}.partial"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                make(partial)
                partial.rename(path)
        return path

    return directory


@pytest.fixture(scope="session")
def trained(once):
    """Objective -> the workdir of the run `small_run.config(objective)`."""
    from igpt_jax import train
    from tests import small_run

    return lambda objective="ar": once(f"run_{objective}", lambda path: train(small_run.config(objective), path))


@pytest.fixture
def copy_of_run(trained, tmp_path):
    """The run of objective ar, for a test to change."""
    return shutil.copytree(trained(), tmp_path / "run")


@pytest.fixture(scope="session")
def straight(once):
    """The workdir of a finished run of `small_run.CFG`, never interrupted. Whoever changes it copies it."""
    from igpt_jax import train
    from tests.small_run import CFG

    return once("straight", lambda path: train(CFG, path))


EXTRA = (
    "analysis/planning/",
    "test_launch.py",
    "test_peers.py",
    "test_tpu_flags.py",
    "weights/test_huggingface_parity.py",
)
"""What compares with PyTorch, compiles for other machines or runs launch scripts. .ci/run runs these tests when their
files changed, and make chaos always."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(EXTRA):
            item.add_marker("extra")


_counts = []


@pytest.fixture
def record_counts(request):
    """Keeps what a test counted, for the end of the report."""
    return lambda what, counts: _counts.append(f"{request.node.name}: {what} {counts}")


def pytest_terminal_summary(terminalreporter):
    for line in _counts:
        terminalreporter.write_line(line)
