"""Published figures of accelerators, from which lower bounds of times are computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from igpt_jax.errors import InputError, nearest

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
    """Dimensions of the torus of chips. A chip has two links in each."""
    dcn_rate: float
    """Bytes per second of the data-centre network: the chip's share of its host's."""

    def devices(self, n: int) -> Chip:
        """The figures of one of n devices that share the chip."""
        rates = {name: getattr(self, name) / n for name in ("flops", "hbm_rate", "ici_rate", "dcn_rate")}
        return replace(self, hbm_bytes=self.hbm_bytes // n, **rates)


CHIPS: dict[str, Chip] = {
    "v5e": Chip("v5e", 197e12, 16 * GB, 819e9, 200e9, 2, 25e9 / 8),
    "v5p": Chip("v5p", 459e12, 95 * GB, 2765e9, 600e9, 3, 50e9 / 8),
    "v6e": Chip("v6e", 918e12, 32 * GB, 1640e9, 400e9, 2, 100e9 / 8),
    "tpu7x": Chip("tpu7x", 2307e12, 192 * GIB, 7380e9, 600e9, 3, 100e9 / 8),
}
"""Name -> figures; a topology begins with the name.

Source: the pages "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x (Ironwood)" of Google Cloud's TPU documentation
(docs.cloud.google.com/tpu/docs). They give the links between chips as the sum of both directions (400, 1200, 800 and
1200 GB/s per chip); half of that leaves a chip. For v6e, an earlier version of its page had 3,584 Gbit/s instead of
3,200; the lower figure is used. The data-centre network of v5e and v6e is that of a pod (6.4 and 25.6 Tbit/s), divided
by its 256 chips.
"""


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as v5e:16x16.

    Raises:
      InputError: no chip has that name.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise InputError(
            f"--topology {topology}: no chip {name!r}; there are {', '.join(CHIPS)}{nearest(name, CHIPS)} "
            "(v5e:16x16 is a topology)"
        )
    return CHIPS[name]
