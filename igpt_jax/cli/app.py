"""All commands, and how one runs: parse, join the processes, load plugins, parse with the experiment's defaults, do it.

Each command is a dataclass in a file of its own; its fields are its options.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import Annotated, Any

import tyro

from igpt_jax.cli import interrupts
from igpt_jax.cli.bench import Bench
from igpt_jax.cli.common import Command, JoinedCommand, ProcessArgs
from igpt_jax.cli.complete import Complete
from igpt_jax.cli.convert import Convert
from igpt_jax.cli.draft import DraftCommand
from igpt_jax.cli.evaluate import Evaluate
from igpt_jax.cli.fetch import Fetch
from igpt_jax.cli.info import Info
from igpt_jax.cli.inpaint import Inpaint
from igpt_jax.cli.output import fail
from igpt_jax.cli.palette import FitPalette
from igpt_jax.cli.parse import parse
from igpt_jax.cli.plan import PlanRun
from igpt_jax.cli.probe import Probe
from igpt_jax.cli.progress import ConsoleHandler, show_progress
from igpt_jax.cli.report import Report
from igpt_jax.cli.restore import Restore
from igpt_jax.cli.sample import Sample
from igpt_jax.cli.train import Train
from igpt_jax.cli.video import Video
from igpt_jax.errors import InputError, first_line, nearest
from igpt_jax.tpu_flags import set_tpu_flags
from igpt_jax.version import __version__

COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "sample": Sample,
    "complete": Complete,
    "inpaint": Inpaint,
    "restore": Restore,
    "video": Video,
    "draft": DraftCommand,
    "eval": Evaluate,
    "probe": Probe,
    "report": Report,
    "info": Info,
    "palette": FitPalette,
    "fetch": Fetch,
    "convert": Convert,
    "plan": PlanRun,
    "bench": Bench,
}

SHELLS = ("bash", "zsh", "tcsh")

EXIT_CODES = {
    1: "a loss that is not finite, a plan that does not fit, too little memory on the way, and unforeseen errors",
    2: "bad input, or a run too large for memory: one line on stderr, nothing overwritten",
    75: "a hang or a lost process; the same command may succeed when repeated",
    130: "Ctrl-C (SIGINT); a run has saved itself",
    134: "JAX itself ended a process because another was lost; as 75",
    141: "stdout was closed (SIGPIPE)",
    143: "SIGTERM; a run has saved itself",
}
"""What exit codes other than 0 mean."""

_ABOUT = f"""Image GPT in JAX, version {__version__}.

MODEL is a workdir of igpt train, an OpenAI checkpoint, a Hugging Face directory, or a name on the Hugging Face Hub.

igpt COMMAND --help lists the options of a command, igpt --version prints the version, and igpt completion
{"|".join(SHELLS)} prints a script that completes commands and options with the tab key.

train, sample, complete, inpaint, restore, video, eval, probe and draft run over several processes where Slurm, Open
MPI, Kubernetes or Cloud TPU started them, or where each has --coordinator HOST:PORT --num-processes N --process-id I.

Exit codes other than 0: """ + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())


def run(args: list[str]) -> int:
    """Runs a command. Returns the exit code, and reports on stderr why it is not 0."""
    logging.basicConfig(level=logging.WARNING, handlers=[ConsoleHandler()])
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # Orbax and TensorStore log what they raise
    try:
        words = args[1:] if args[:1] == ["help"] else args
        if len(words) < len(args):  # igpt help COMMAND
            words = [*words[:1], "--help"]
        if words[:1] and words[0] in COMMANDS:
            return _run_command(words[0], words[1:])
        return _run_without_command(words)
    except InputError as error:
        return fail(2, error)
    except OutOfMemoryError as error:
        return fail(1, error)
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:  # help has been printed
        return int(stop.code or 0)


def _run_without_command(words: list[str]) -> int:
    """Help, version and completion; InputError for anything else."""
    if words == ["--version"]:
        print(f"igpt_jax {__version__}")
    elif words[:1] == ["completion"]:
        if len(words) != 2 or words[1] not in SHELLS:
            raise InputError(f"completion: name a shell: {', '.join(SHELLS)}; igpt completion bash prints a script")
        tyro.cli(_all_commands(), prog="igpt", args=["--tyro-print-completion", words[1]])
    elif not words or words[0] in ("-h", "--help"):
        with contextlib.suppress(SystemExit):
            tyro.cli(_all_commands(), prog="igpt", description=_ABOUT, args=["--help"])
        return 0 if words else 2
    else:
        near = nearest(words[0], COMMANDS)
        raise InputError(f"no command {words[0]!r}{near}; there are {', '.join(COMMANDS)}")
    return 0


def _all_commands() -> Any:
    """All commands as one type for tyro."""
    kinds: list[Any] = [
        Annotated[kind, tyro.conf.subcommand(name, description=(kind.__doc__ or "").partition("\n\n")[0])]
        for name, kind in COMMANDS.items()
    ]
    return reduce(lambda a, b: a | b, kinds)


def _run_command(name: str, args: list[str]) -> int:
    kind = COMMANDS[name]
    if {"-h", "--help"} & set(args):
        defaults = None
        with contextlib.suppress(InputError):  # help comes even where something is missing
            others = [arg for arg in args if arg not in ("-h", "--help")]
            defaults = parse(kind, name, others, checked=False).defaults()
        parse(kind, name, ["--help"], default=defaults)
    as_typed = parse(kind, name, args, checked=False)
    quiet, verbose = as_typed.common.quiet, name in ("train", "plan")
    set_tpu_flags()
    with memory_errors(kind.less_memory):
        import igpt_jax.parallel.processes  # noqa: F401 (imports JAX)
    with log_level(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING):
        return _run_parsed(as_typed, name, args)


def _run_parsed(as_typed: Command, name: str, args: list[str]) -> int:
    """The command's exit code, with one line on stderr for every foreseen error."""
    from igpt_jax.parallel import processes

    try:
        if isinstance(as_typed, JoinedCommand):
            _join(as_typed)
        with processes.naming_lost_processes(), memory_errors(as_typed.less_memory):
            command = _with_defaults(as_typed, name, args)
            with show_progress(command.common.quiet), interrupts.tidying_up():
                code = command.run() or 0
    except processes.InputErrorElsewhere:
        code = 2
    except (processes.joining.NotJoinedError, processes.LostProcessError) as error:
        fail(os.EX_TEMPFAIL, error)
        processes.exit_now(os.EX_TEMPFAIL)  # JAX's shutdown barrier would wait for the lost ones
    except InputError as error:
        code = fail(2, error)
    except processes.FailedElsewhereError as error:
        code = fail(1, f"process 0 failed: {error}")
    except OutOfMemoryError as error:
        code = fail(1, error)
    except Exception:
        if not processes.is_multiprocess():
            raise
        traceback.print_exc()
        code = 1
    if code:
        processes.exit_if_others_continue(code)
    return code


def _with_defaults(as_typed: Command, name: str, args: list[str]) -> Command:
    """The command, checked, over the defaults of the files and weights that it names; its plugins are loaded."""
    from igpt_jax.parallel.processes import raise_on_all
    from igpt_jax.plugins import load_module

    joined = isinstance(as_typed, JoinedCommand)
    together = raise_on_all if joined else contextlib.nullcontext  # a plan must not open this machine's devices
    with together():
        for path in as_typed.common.plugin:
            load_module(path)
        default = as_typed.defaults()
    if default is not None:
        default = parse(COMMANDS[name], name, args, default=default, checked=False).with_weights(default)
    with together():
        return parse(COMMANDS[name], name, args, default=default)


def _join(command: JoinedCommand) -> None:
    """Joins the processes of this run. Process 0 alone prints results and logs its progress."""
    from igpt_jax.parallel import processes

    asked = command.processes
    processes.start(asked.coordinator, asked.num_processes, asked.process_id, asked.join_timeout_s)
    processes.require_same("the command line", repr(replace(command, processes=ProcessArgs())))
    if not processes.is_process_zero():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process lives)
        logging.getLogger("igpt_jax").setLevel(logging.WARNING)
    if not isinstance(command, Train):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX catches it for runs that save themselves


@contextlib.contextmanager
def log_level(level: int) -> Iterator[None]:
    """Within the block, log lines of this package are shown from `level` on."""
    logger = logging.getLogger("igpt_jax")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


class OutOfMemoryError(RuntimeError):
    """The host or a device has too little memory."""


@contextlib.contextmanager
def memory_errors(way_out: str) -> Iterator[None]:
    """Turns the errors of too little memory into one line with the way out."""
    try:
        yield
    except Exception as error:
        signs = ("RESOURCE_EXHAUSTED", "failed to map segment")
        lines = [line.strip() for line in str(error).splitlines() if any(sign in line for sign in signs)]
        lines = [first_line(error)] if isinstance(error, MemoryError) else lines
        if not lines:
            raise
        raise OutOfMemoryError(f"out of memory ({lines[0][:200]}); {way_out}") from error
