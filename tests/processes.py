"""Runs in processes of their own: one, or several on loopback that train together."""

import json
import os
import re
import socket
import subprocess
import sys
import time

from tests.test_layering import ROOT

SMALL = "--tiny --model.n-layer 1 --model.vocab-size 20 --optim.warmup-steps 2 --train.steps 10 --train.log-every 1"
ARGS = ["train", str(ROOT / "experiments" / "digits.py"), *SMALL.split(), "--train.eval-every", "5"]
OFTEN = "--optim.schedule constant --train.eval-every 40 --train.checkpoint-every 10"
ENDLESS = [*OFTEN.split(), "--train.steps", "1000000"]
HEARD = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""For the code of a process that is to hear Ctrl-C: a script's background jobs, and so their children, ignore it."""
RUN = "import sys; from igpt_jax.cli import main; sys.exit(main(sys.argv[1:]))"


def continue_args(steps):
    """Options that end an endless run, or one that does the same, at a step."""
    return [*ENDLESS, "--train.steps", steps]


def flags(devices):
    """So many fake devices, and programs that are compiled in two thirds of the time."""
    return f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"


def popen(arguments, devices, cwd=ROOT, **env):
    """Python with some arguments and so many fake devices."""
    env = os.environ | {"XLA_FLAGS": flags(devices), "PYTHONPATH": str(ROOT)} | env
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=env, cwd=cwd, **pipes)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def joined(commands, devices):
    """A process for each (arguments of igpt, directory to be in); several join each other."""
    together = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", len(commands), "--process-id"]
    several = len(commands) > 1
    # JAX would serve process 0 alone from a cache, and the others would keep it waiting past its time-outs.
    env = {"JAX_ENABLE_COMPILATION_CACHE": "false"} if several else {}
    return [
        popen(["-c", RUN, *args, *([*together, i] if several else [])], devices, cwd, **env)
        for i, (args, cwd) in enumerate(commands)
    ]


def start(workdir, processes, devices, *extra):
    """The processes of one run of `igpt train`, each with so many fake devices."""
    return joined([([*ARGS, "--workdir", workdir, *extra], ROOT)] * processes, devices)


def finish(running, timeout=600):
    """(exit code, stdout, stderr) of each."""
    done = []
    try:
        for process in running:
            out, err = process.communicate(timeout=timeout)
            done.append((process.returncode, out, err))
    finally:
        for process in running:
            process.kill()
    return done


def named_by_jax(err):
    """The processes that JAX itself names as lost when it aborts one."""
    if "Failed to send RPC to coordination service" in err:
        return [0]  # which runs the service
    return [int(i) for i in re.findall(r"heartbeats\):\s*(?:\S*task:)?(\d+)", err)]


def lines(workdir):
    """metrics.jsonl without what depends on the clock."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("train/images_per_s", "train/tflops_per_s")
    return [{k: v for k, v in line.items() if k not in timed} for line in records]


def lines_written(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(path, running, more_than=0, timeout=600):
    """Until a file has more lines than that."""
    end = time.monotonic() + timeout
    while not (path.exists() and path.read_text().count("\n") > more_than):
        assert time.monotonic() < end
        assert all(process.poll() is None for process in running), finish(running)
        time.sleep(0.05)
