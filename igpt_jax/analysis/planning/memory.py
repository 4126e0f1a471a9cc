"""The memory of a program at one device, as its compiler reports it."""

from __future__ import annotations

import re
import time
from dataclasses import astuple, dataclass, replace
from typing import Any

import jax


@dataclass(frozen=True)
class Memory:
    """Bytes at one device. Parameters, moments, EMA and batch follow from their shapes; the rest the compiler says."""

    params: int
    batch: int
    capacity: int
    """What the compiler has to give, or what the chip has if the compiler does not say."""
    moments: int = 0
    """Of the optimizer, its step counts included."""
    ema: int = 0
    padding: int = 0
    """What the device's tiles add to the arguments, less the arguments that the program does not read."""
    outputs: int = 0
    """Results that do not take the place of an argument."""
    temporaries: int = 0
    """All that lives within one execution: saved activations, gradients, gathered weights."""
    code: int = 0

    @property
    def total(self) -> int:
        """Everything but the capacity."""
        return sum(astuple(self)) - self.capacity

    @property
    def fits(self) -> bool:
        """Whether the program can run there."""
        return self.total <= self.capacity


def compile_and_measure(lowered: jax.stages.Lowered, memory: Memory) -> tuple[str | None, Memory, float]:
    """Compiles a program.

    Args:
      memory: the bytes of its arguments.

    Returns:
      its HLO text, or None if the compiler refuses it for its size; all of its memory; seconds that compiling took.
    """
    started = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = memory_of_refusal(memory, str(error))
        if needed is None:
            raise
        return None, needed, time.monotonic() - started
    analysis: Any = compiled.memory_analysis()
    memory = replace(
        memory,
        padding=analysis.argument_size_in_bytes - memory.total,
        outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )
    return compiled.as_text() or "", memory, time.monotonic() - started


_SIZE = r"([\d.]+)([KMGT])"
_REFUSALS = (
    (re.compile(f"Used {_SIZE} of {_SIZE} hbm"), "total"),
    (re.compile(rf"temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"), "temporaries"),
)


def memory_of_refusal(memory: Memory, message: str) -> Memory | None:
    """The memory that a compiler's error gives when a program is too large; None for any other error."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    for pattern, what in _REFUSALS:
        if match := pattern.search(message):
            needed, capacity = (
                int(float(n) * 1024 ** (1 + "KMGT".index(unit))) for n, unit in (match.group(1, 2), match.group(3, 4))
            )
            return replace(memory, temporaries=needed - getattr(memory, what), capacity=min(capacity, memory.capacity))
    return replace(memory, temporaries=memory.capacity)  # the message has no number: more than there is
