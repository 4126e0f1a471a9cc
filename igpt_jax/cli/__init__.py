"""The command line: igpt train, sample, complete, eval, palette, fetch, convert, plan. Each parses and prints.

Exit codes: 2 for bad input (one line on stderr); 130 or 143 for a run stopped by SIGINT or SIGTERM, which has saved
itself; 1 for a loss that is not finite, a plan that does not fit, and whatever was not foreseen; 75 for a hang or a
lost process (134 where JAX itself ends a process first, for a lost one), where the same command may do better.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from igpt_jax.cli.convert import convert_command
from igpt_jax.cli.fetch import fetch_command
from igpt_jax.cli.fit_palette import palette_command
from igpt_jax.cli.plan import plan_command
from igpt_jax.cli.run import train_command
from igpt_jax.cli.shared import ConsoleHandler
from igpt_jax.cli.use import complete_command, eval_command, sample_command
from igpt_jax.config import InputError
from igpt_jax.parallel import multihost
from igpt_jax.parallel.multihost import FailedElsewhereError, InputErrorElsewhere, LostProcessError

TOGETHER = ("train", "sample", "complete", "eval")
"""Commands that run over several processes."""

COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "train": train_command,
    "sample": sample_command,
    "complete": complete_command,
    "eval": eval_command,
    "palette": palette_command,
    "fetch": fetch_command,
    "convert": convert_command,
    "plan": plan_command,
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
  igpt plan EXPERIMENT.py --topology SHAPE     what a run would cost on a TPU pod that is not here

MODEL is a workdir of igpt train, an OpenAI checkpoint, a Hugging Face directory, or a name on the Hugging Face Hub.

train, sample, complete and eval run over several processes where Slurm, Open MPI, Kubernetes or Cloud TPU started them,
or where each is given --coordinator HOST:PORT --num-processes N --process-id I.

igpt COMMAND --help lists a command's options.
"""


def join_processes(args: list[str]) -> list[str]:
    """Starts this process's part in a run over several, and returns the arguments that are not about that."""
    parser = argparse.ArgumentParser(prog="igpt", add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    try:
        found, others = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise InputError(f"{error}") from None
    multihost.start(found.coordinator, found.num_processes, found.process_id)
    multihost.require_same("the command line", json.dumps(others))
    if not multihost.is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
        logging.getLogger("igpt_jax").setLevel(logging.WARNING)
    if others[0] != "train":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX has caught it for those who save themselves
    return others


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `igpt`. Returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, handlers=[ConsoleHandler()])
    logging.getLogger("igpt_jax").setLevel(logging.INFO if args[:1] in (["train"], ["plan"]) else logging.WARNING)
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # Orbax and TensorStore say what they raise, too
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    try:
        code = run(args)
    except Exception:
        if not multihost.several():
            raise
        traceback.print_exc()
        code = 1
    if code:
        multihost.leave(code)
    return code


def run(args: list[str]) -> int:
    """Carries a command out. Returns the exit code, having said why it is not 0."""
    try:
        if args[0] not in COMMANDS:
            raise InputError(f"no command {args[0]!r}; there are {', '.join(COMMANDS)}")
        if args[0] in TOGETHER and not {"-h", "--help"} & set(args):
            args = join_processes(args)
        with multihost.naming_lost_processes():
            return COMMANDS[args[0]](args[1:]) or 0
    except InputErrorElsewhere:
        return 2
    except InputError as error:
        print(f"{multihost.who()}: {error}", file=sys.stderr)
        return 2
    except FailedElsewhereError as error:
        print(f"{multihost.who()}: process 0 failed: {error}", file=sys.stderr)
        return 1
    except LostProcessError as error:
        print(f"{multihost.who()}: {error}", file=sys.stderr, flush=True)
        multihost.leave_alone(os.EX_TEMPFAIL)  # JAX's farewell would wait for the lost ones
    except KeyboardInterrupt:
        print(f"{multihost.who()}: interrupted", file=sys.stderr)
        return 130
