"""What each of two processes does in one session: python -m tests.session INDEX FOLDER [COORDINATOR].

One start, one compilation cache in memory, and everything that two processes do together, one after another. Each part
prints lines that tests/test_processes.py reads.
"""

import dataclasses
import functools
import hashlib
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from igpt_jax.cli import app
from igpt_jax.parallel import processes


def say(*words):
    """A line of its own, whatever Gloo prints beside it."""
    print("\n>>", *words, flush=True)


def run_command(*args):
    """A command as the user types it, in processes that are joined already. Its exit code."""
    stdout = sys.stdout
    try:
        return app.run([str(arg) for arg in args])
    finally:
        sys.stdout = stdout


def agreement(index):
    """Barriers, values of process 0, and errors of one process."""
    from igpt_jax import InputError

    processes.barrier("roll call", 60)
    say("from process 0", processes.on_process_zero(lambda: [index, "x"]))
    say("any", processes.any_process(index == 1), processes.any_process(False))
    for what in ("same", f"other {index}"):
        try:
            processes.require_same("the value", what)
            say("the same")
        except InputError as error:
            say(type(error).__name__, error)
    try:
        with processes.raise_on_all():
            if index == 1:
                raise InputError("only here")
    except InputError as error:
        say(type(error).__name__, error)


def batches():
    """The sha256 of four global batches as this process sees them, from the first epoch into the second."""
    from igpt_jax.config import MeshConfig
    from igpt_jax.datasets import open_data
    from igpt_jax.parallel.mesh import make_mesh, put_batch, to_host
    from tests.small_run import CFG

    cfg = dataclasses.replace(CFG, data=dataclasses.replace(CFG.data, batch_size=32))
    for tensor in (1, 8):  # over all processes: then they read the same rows
        mesh = make_mesh(MeshConfig(tensor=tensor))
        stream = open_data(cfg, mesh).train_batches(45)
        for _ in range(4):
            batch = put_batch(next(stream), mesh)
            whole = b"".join(to_host(batch[key]).tobytes() for key in sorted(batch))
            say("batch", tensor, hashlib.sha256(whole).hexdigest(), len(batch["image"]))


def commands(index, folder):
    """Training, drawing and bad input, by the command line."""
    from tests.processes import ARGS

    own = folder / str(index)  # relative paths mean another file in each process
    os.chdir(own)
    say("train", run_command(*ARGS, "--workdir", folder / "run"))
    draw = ["--model", folder / "run", "-n"]
    say("sample", run_command("sample", *draw, 3, "--out", "x.npy"))
    photo = folder / "0" / "photo.png"
    say("complete other", run_command("complete", "photo.png", *draw, 1, "--out", "y.png"))
    say("complete nowhere", run_command("complete", photo, *draw, 1, "--out", "/proc/nowhere/y.png"))
    say("train holiday", run_command(*ARGS, "--workdir", folder / "holiday"))
    say("train missing", run_command("train", "experiments/digits.py", "--tiny", "--workdir", folder / "no"))
    say("train other seed", run_command(*ARGS, "--workdir", folder / "no", "--seed", index))


def until_stopped(folder):
    """Trains until a signal comes."""
    from tests.processes import ARGS, ENDLESS

    say("stopped", run_command(*ARGS, *ENDLESS, "--workdir", folder / "endless"))


def late(index):
    """Process 1 comes to the second barrier after its time."""
    processes.barrier("roll call", 60)
    if index == 1:
        time.sleep(2)
    try:
        processes.barrier("second roll call", 1)
    except processes.LostProcessError as error:
        say("lost", error.lost)
    processes.barrier("third roll call", 60)


def until_killed(folder):
    """Trains until the other process is killed."""
    from tests.processes import ARGS, ENDLESS

    processes.naming_lost_processes = functools.partial(processes.naming_lost_processes, 3)
    run_command(*ARGS, *ENDLESS, "--workdir", folder / "killed")


def main(index, folder, coordinator=None):
    """Process 0 has no coordinator: Slurm's variables say it."""
    processes.joining.HEARTBEAT_S = 15  # after which JAX notices the kill
    processes.start(*([] if coordinator is None else [coordinator, 2, int(index)]))
    processes.start = lambda *args, **options: None  # every command would join them again
    app.signal = SimpleNamespace(signal=lambda *args: None, SIGTERM=None, SIG_DFL=None)  # JAX keeps SIGTERM to the end
    folder = Path(folder)
    for part in (lambda: agreement(int(index)), batches, lambda: commands(int(index), folder)):
        part()
    until_stopped(folder)
    late(int(index))
    until_killed(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
