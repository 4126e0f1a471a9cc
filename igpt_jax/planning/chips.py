"""What the makers publish about their accelerators; the numbers from which times and bounds are estimated."""

from __future__ import annotations

from dataclasses import dataclass, replace

from igpt_jax.config import InputError, nearest

GB = 10**9
GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Published figures of one chip. A chip may show itself as several devices; see `CHIPS` for the sources."""

    name: str
    flops: float
    """Peak bfloat16 FLOP/s."""
    hbm_bytes: int
    hbm_rate: float
    """Bytes per second."""
    ici_rate: float
    """Bytes per second out of the chip over all its links to neighbours, one direction."""
    torus: int
    """Dimensions of the network between chips: a chip has two links in each."""
    dcn_rate: float
    """Bytes per second of the data-centre network, this chip's share of its host's."""

    def devices(self, n: int) -> Chip:
        """The same for one of n devices that share the chip."""
        return replace(
            self,
            flops=self.flops / n,
            hbm_bytes=self.hbm_bytes // n,
            hbm_rate=self.hbm_rate / n,
            ici_rate=self.ici_rate / n,
            dcn_rate=self.dcn_rate / n,
        )


CHIPS: dict[str, Chip] = {
    "v5e": Chip("v5e", 197e12, 16 * GB, 819e9, 200e9, 2, 25e9 / 8),
    "v5p": Chip("v5p", 459e12, 95 * GB, 2765e9, 600e9, 3, 50e9 / 8),
    "v6e": Chip("v6e", 918e12, 32 * GB, 1640e9, 400e9, 2, 100e9 / 8),
    "tpu7x": Chip("tpu7x", 2307e12, 192 * GIB, 7380e9, 600e9, 3, 100e9 / 8),
}
"""By the name that begins a topology.

Source: the pages "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x (Ironwood)" of Google Cloud's TPU documentation
(docs.cloud.google.com/tpu/docs). They give links between chips in both directions together (400, 1200, 800 and 1200
GB/s a chip); half of that leaves a chip. An earlier edition gave v6e 3,584 Gbit/s where it is 3,200 now; the lower
figure is taken. The network of v5e and v6e is their pod's (6.4 and 25.6 Tbit/s) over 256 chips.
"""

CPU = Chip("cpu", 1e12, 16 * GB, 50e9, 10e9, 1, 1e9)
"""Round numbers that stand for no machine, so that a plan can be made and tested without an accelerator's compiler."""


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as v5e:16x16.

    Raises:
      InputError: no chip of that name.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise InputError(
            f"--topology {topology}: no chip {name!r}; there are {', '.join(CHIPS)}{nearest(name, CHIPS)} "
            "(a topology is such as v5e:16x16)"
        )
    return CHIPS[name]
