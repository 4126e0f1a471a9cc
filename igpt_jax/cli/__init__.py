"""The command line: igpt train, sample, complete, eval, palette, fetch, convert. Each parses, calls and prints.

Bad input is one line on stderr and exit code 2. A run stopped by SIGINT or SIGTERM has saved itself and exits with
130 or 143; a run stopped by a loss that is not finite exits with 1.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from igpt_jax.cli.convert import convert_command
from igpt_jax.cli.fetch import fetch_command
from igpt_jax.cli.fit_palette import palette_command
from igpt_jax.cli.run import train_command
from igpt_jax.cli.shared import ConsoleHandler
from igpt_jax.cli.use import complete_command, eval_command, sample_command
from igpt_jax.config import InputError

COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "train": train_command,
    "sample": sample_command,
    "complete": complete_command,
    "eval": eval_command,
    "palette": palette_command,
    "fetch": fetch_command,
    "convert": convert_command,
}

USAGE = """\
igpt: Image GPT in JAX

  igpt train EXPERIMENT.py [--workdir DIR]     learn images, and show what was learned
  igpt sample --model MODEL                    draw new images
  igpt complete IMAGE... --model MODEL         finish half-seen images
  igpt eval --model MODEL                      held-out likelihood beside two baselines
  igpt palette SOURCE --out DIR                fit a colour palette
  igpt fetch igpt-s|igpt-m|igpt-l              download the weights that OpenAI released
  igpt convert MODEL --to FORMAT --out DIR     weights from one format to another

MODEL is a workdir of igpt train, an OpenAI checkpoint, a Hugging Face directory, or a name on the Hugging Face Hub.

igpt COMMAND --help lists a command's options.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `igpt`. Returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, handlers=[ConsoleHandler()])
    logging.getLogger("igpt_jax").setLevel(logging.INFO if args[:1] == ["train"] else logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax remarks on its own options
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    try:
        if args[0] not in COMMANDS:
            raise InputError(f"no command {args[0]!r}; there are {', '.join(COMMANDS)}")
        return COMMANDS[args[0]](args[1:]) or 0
    except InputError as error:
        print(f"igpt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("igpt: interrupted", file=sys.stderr)
        return 130
