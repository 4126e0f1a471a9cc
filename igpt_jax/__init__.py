"""Image GPT (Chen et al., "Generative Pretraining from Pixels", 2020) in JAX and Flax."""

from igpt_jax.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from igpt_jax.analysis.probing import probe
    from igpt_jax.config import ComputeConfig, Config, MeshConfig, ModelConfig, ProbeConfig, SamplerConfig
    from igpt_jax.errors import InputError
    from igpt_jax.evaluation.evaluate import evaluate
    from igpt_jax.model import ImageGPT, init_cache
    from igpt_jax.palette import Palette
    from igpt_jax.parallel.mesh import make_mesh
    from igpt_jax.run import report, train
    from igpt_jax.sampling.inpaint import inpaint
    from igpt_jax.sampling.restore import restore
    from igpt_jax.sampling.tasks import complete, sample
    from igpt_jax.sampling.video import continue_clip, in_between, sample_clips
    from igpt_jax.sequence import Example, Inputs
    from igpt_jax.weights.load import load_pretrained

__all__ = [
    "ComputeConfig",
    "Config",
    "Example",
    "ImageGPT",
    "InputError",
    "Inputs",
    "MeshConfig",
    "ModelConfig",
    "Palette",
    "ProbeConfig",
    "SamplerConfig",
    "__version__",
    "complete",
    "continue_clip",
    "evaluate",
    "in_between",
    "init_cache",
    "inpaint",
    "load_pretrained",
    "make_mesh",
    "probe",
    "report",
    "restore",
    "sample",
    "sample_clips",
    "train",
]

_HOMES = {
    "igpt_jax.config": ("ComputeConfig", "Config", "MeshConfig", "ModelConfig", "ProbeConfig", "SamplerConfig"),
    "igpt_jax.errors": ("InputError",),
    "igpt_jax.evaluation.evaluate": ("evaluate",),
    "igpt_jax.model": ("ImageGPT", "init_cache"),
    "igpt_jax.palette": ("Palette",),
    "igpt_jax.parallel.mesh": ("make_mesh",),
    "igpt_jax.analysis.probing": ("probe",),
    "igpt_jax.run": ("report", "train"),
    "igpt_jax.sampling.inpaint": ("inpaint",),
    "igpt_jax.sampling.restore": ("restore",),
    "igpt_jax.sampling.tasks": ("complete", "sample"),
    "igpt_jax.sampling.video": ("continue_clip", "in_between", "sample_clips"),
    "igpt_jax.sequence": ("Example", "Inputs"),
    "igpt_jax.weights.load": ("load_pretrained",),
}
"""Module -> its names in `__all__`. A module is imported when one of its names is asked for, and this one imports
nothing, so that the command line starts before JAX does."""


def __getattr__(name: str) -> object:
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'igpt_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
