"""The command line `igpt`. This module imports nothing heavy, so that Ctrl-C and mistakes are answered at once."""

from __future__ import annotations

import os
import sys

from igpt_jax.cli import interrupts, streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command in this process. Returns the exit code."""
    from igpt_jax.cli.app import run

    return run(list(sys.argv[1:] if argv is None else argv))


def run_and_exit() -> NoReturn:
    """The console script."""
    stdout_is_open = streams.guard()
    interrupts.acknowledge_signals()
    try:
        code = main() if stdout_is_open else _refuse_closed_stdout()
        sys.stdout.flush()
    except streams.OutputError as error:
        code = error.code
        if str(error):
            print(f"igpt: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        interrupts.end()
    jax = sys.modules.get("jax")
    several = jax is not None and jax.distributed.is_initialized()
    if code >= 128 or (code and not several):
        # JAX's threads may still run, and an orderly shutdown could crash in them, or repeat the error.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)  # several processes end together


def _refuse_closed_stdout() -> int:
    print("igpt: stdout is closed, so results would be lost; redirect it to a file or to /dev/null", file=sys.stderr)
    return 2
