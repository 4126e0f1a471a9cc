"""The command line `igpt`. This module imports nothing heavy, so that Ctrl-C and mistakes are answered at once."""

from __future__ import annotations

import os
import sys

from igpt_jax.cli.interrupts import acknowledge_signals, wait_for_acknowledgement
from igpt_jax.cli.results import OutputClosedError, open_results

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

PIPE_CLOSED = 141
"""The exit code when stdout was closed (128 + SIGPIPE), as shells expect it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command in this process. Returns the exit code."""
    from igpt_jax.cli.app import run

    return run(list(sys.argv[1:] if argv is None else argv))


def run_and_exit() -> NoReturn:
    """The console script."""
    acknowledge_signals()
    results = open_results()
    try:
        if results is None:
            print(
                "igpt: stdout is closed, so no result could be printed; open it, or send it to /dev/null",
                file=sys.stderr,
            )
            code = 2
        else:
            code = main() or int(results.failed)
    except OutputClosedError:
        code = PIPE_CLOSED
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        wait_for_acknowledgement()
    jax = sys.modules.get("jax")
    several = jax is not None and jax.distributed.is_initialized()
    if code >= 128 or (code and not several):
        # JAX's threads may still run, and an orderly shutdown could crash in them, or repeat the error.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)  # several processes end together
