"""The command line: igpt train, sample, complete, eval, palette, fetch, convert, plan. Each parses and prints."""

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
from igpt_jax.cli.shared import ConsoleHandler, fail, parse_known
from igpt_jax.cli.use import complete_command, eval_command, sample_command
from igpt_jax.errors import InputError
from igpt_jax.parallel import processes
from igpt_jax.parallel.processes import FailedElsewhereError, InputErrorElsewhere, LostProcessError
from igpt_jax.plugins import load_module

EXIT_CODES = {
    1: "a loss that is not finite, a plan that does not fit, and unforeseen errors",
    2: "bad input: one line on stderr, nothing overwritten",
    75: "a hang or a lost process; the same command may succeed when repeated",
    130: "SIGINT; a run has saved itself",
    134: "JAX itself ended a process because another was lost; as 75",
    143: "SIGTERM; a run has saved itself",
}
"""What exit codes other than 0 mean."""

TOGETHER = ("train", "sample", "complete", "eval")
"""Commands that run over several processes."""

COMMANDS: dict[str, tuple[Callable[[list[str]], int | None], str, str]] = {
    "train": (train_command, "EXPERIMENT.py [--workdir DIR]", "train a model, and show what it learned"),
    "sample": (sample_command, "--model MODEL", "draw new images"),
    "complete": (complete_command, "IMAGE... --model MODEL", "complete images of which a part is known"),
    "eval": (eval_command, "--model MODEL", "held-out likelihood beside two baselines"),
    "palette": (palette_command, "SOURCE --out DIR", "fit a colour palette"),
    "fetch": (fetch_command, "igpt-s|igpt-m|igpt-l", "download the weights that OpenAI released"),
    "convert": (convert_command, "MODEL --to FORMAT --out DIR", "weights from one format to another"),
    "plan": (plan_command, "EXPERIMENT.py --topology SHAPE", "what a run would cost on a TPU pod"),
}
"""Name -> the command, its arguments and what it does."""

_LINES = "\n".join(f"  igpt {f'{name} {arguments}':<40}{what}" for name, (_, arguments, what) in COMMANDS.items())
_CODES = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
USAGE = f"""\
igpt: Image GPT in JAX

{_LINES}

MODEL is a workdir of igpt train, an OpenAI checkpoint, a Hugging Face directory, or a name on the Hugging Face Hub.

train, sample, complete and eval run over several processes where Slurm, Open MPI, Kubernetes or Cloud TPU started them,
or where each is given --coordinator HOST:PORT --num-processes N --process-id I.

Every command takes --plugin FILE.py, a Python file that registers an objective, a source, an evaluator or an attention
backend of your own (CONTRIBUTING.md).

igpt COMMAND --help lists a command's options.

Exit codes other than 0:
{_CODES}
"""


def parse_common(command: str, args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options that several commands share, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", action="append", default=[])
    if command in TOGETHER:
        for name, kind in (("--coordinator", str), ("--num-processes", int), ("--process-id", int)):
            parser.add_argument(name, type=kind)
    return parse_known(parser, args)


def join_processes(command: str, options: argparse.Namespace, args: list[str]) -> None:
    """Joins the processes of this run. Process 0 alone prints results and logs its progress."""
    processes.start(options.coordinator, options.num_processes, options.process_id)
    processes.require_same("the command line", json.dumps([command, options.plugin, args]))
    if not processes.is_process_zero():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process lives)
        logging.getLogger("igpt_jax").setLevel(logging.WARNING)
    if command != "train":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX catches it for runs that save themselves


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `igpt`. Returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, handlers=[ConsoleHandler()])
    logging.getLogger("igpt_jax").setLevel(logging.INFO if args[:1] in (["train"], ["plan"]) else logging.WARNING)
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # Orbax and TensorStore log what they raise
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    try:
        code = run(args)
    except Exception:
        if not processes.is_multiprocess():
            raise
        traceback.print_exc()
        code = 1
    if code:
        processes.exit_if_others_continue(code)
    return code


def run(args: list[str]) -> int:
    """Runs a command. Returns the exit code, and reports on stderr why it is not 0."""
    command, *args = args
    try:
        if command not in COMMANDS:
            raise InputError(f"no command {command!r}; there are {', '.join(COMMANDS)}")
        options, args = parse_common(command, args)
        if command in TOGETHER and not {"-h", "--help"} & set(args):
            join_processes(command, options, args)
        with processes.naming_lost_processes():
            for path in options.plugin:
                load_module(path)
            return COMMANDS[command][0](args) or 0
    except InputErrorElsewhere:
        return 2
    except InputError as error:
        return fail(2, error)
    except FailedElsewhereError as error:
        return fail(1, f"process 0 failed: {error}")
    except LostProcessError as error:
        fail(os.EX_TEMPFAIL, error)
        processes.exit_now(os.EX_TEMPFAIL)  # JAX's shutdown barrier would wait for the lost ones
    except KeyboardInterrupt:
        return fail(130, "interrupted")
