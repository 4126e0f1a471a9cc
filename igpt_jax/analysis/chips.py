"""Published figures of accelerators, from which lower bounds of times are computed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from igpt_jax.errors import InputError, nearest
from igpt_jax.training.flops import PEAK_FLOPS

GB = 10**9
GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Published figures of one chip, or of one of several devices that share a chip. `CHIPS` gives the sources."""

    name: str
    flops: float
    """Peak bfloat16 FLOP/s."""
    hbm_bytes: int
    hbm_rate: float
    """Bytes per second."""
    ici_rate: float
    """Bytes per second out of the chip, over all its links to neighbours."""
    torus: int
    """Dimensions of the torus of chips. A chip has two links in each. 0: every chip reaches every other one (GPUs)."""
    dcn_rate: float
    """Bytes per second of the data-centre network: the chip's share of its host's."""

    @property
    def is_gpu(self) -> bool:
        """Whether another compiler is needed than that of TPUs."""
        return not self.torus

    def devices(self, n: int) -> Chip:
        """The figures of one of n devices that share the chip."""
        rates = {name: getattr(self, name) / n for name in ("flops", "hbm_rate", "ici_rate", "dcn_rate")}
        return replace(self, hbm_bytes=self.hbm_bytes // n, **rates)


CHIPS: dict[str, Chip] = {
    "v5e": Chip("v5e", PEAK_FLOPS["TPU v5 lite"], 16 * GB, 819e9, 200e9, 2, 25e9 / 8),
    "v5p": Chip("v5p", PEAK_FLOPS["TPU v5"], 95 * GB, 2765e9, 600e9, 3, 50e9 / 8),
    "v6e": Chip("v6e", PEAK_FLOPS["TPU v6 lite"], 32 * GB, 1640e9, 400e9, 2, 100e9 / 8),
    "tpu7x": Chip("tpu7x", 2307e12, 192 * GIB, 7380e9, 600e9, 3, 100e9 / 8),
    "h100": Chip("h100", PEAK_FLOPS["H100"], 80 * GB, 3350e9, 450e9, 0, 400e9 / 8),
    "h200": Chip("h200", PEAK_FLOPS["H200"], 141 * GB, 4800e9, 450e9, 0, 400e9 / 8),
}
"""Name -> figures; a topology begins with the name.

Source: the pages "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x (Ironwood)" of Google Cloud's TPU documentation
(docs.cloud.google.com/tpu/docs). They give the links between chips as the sum of both directions (400, 1200, 800 and
1200 GB/s per chip); half of that leaves a chip. For v6e, an earlier version of its page had 3,584 Gbit/s instead of
3,200; the lower figure is used. The data-centre network of v5e and v6e is that of a pod (6.4 and 25.6 Tbit/s), divided
by its 256 chips. H100 (SXM) and H200: NVIDIA's data sheets, without sparsity. Of NVLink's 900 GB/s half leaves a GPU. A
node has an adapter of 400 Gbit/s for each GPU (DGX H100 and H200).
"""

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_PARTS_OF_A_CUBE = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4")
"""Shapes of slices, from the same pages. Larger slices of a 3-D torus are made of cubes of 4 x 4 x 4 chips."""


def parse_topology(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the counts of chips of a topology such as v5e:16x16."""
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise InputError(
            f"topology {topology}: no chip {name!r}; there are {', '.join(CHIPS)}{nearest(name, CHIPS)} "
            "(v5e:16x16 is a topology)"
        )
    chip = CHIPS[name]
    example = f"as in {name}:" + "x".join("4" * chip.torus)
    if chip.is_gpu:
        if not re.fullmatch(r"[1-8]", shape):
            raise InputError(f"topology {topology}: a node has 1 to 8 GPUs, as in {name}:8")
        return chip, (int(shape),)
    if not re.fullmatch(r"\d+(x\d+)*", shape):
        raise InputError(f"topology {topology}: the shape is counts of chips, {example}")
    sides = tuple(map(int, shape.split("x")))
    if len(sides) != chip.torus:
        alike = " and ".join(other for other in CHIPS if CHIPS[other].torus == chip.torus)
        raise InputError(f"topology {topology}: slices of {alike} are {chip.torus}-D, {example}")
    if chip.torus == 2 and shape not in _FLAT:
        raise InputError(f"topology {topology}: slices of {name} are {', '.join(_FLAT)}")
    if chip.torus == 3 and shape not in _PARTS_OF_A_CUBE and (0 in sides or any(side % 4 for side in sides)):
        shapes = ", ".join(_PARTS_OF_A_CUBE)
        raise InputError(f"topology {topology}: slices of {name} are {shapes}, or multiples of 4, as in {name}:4x4x8")
    return chip, sides
