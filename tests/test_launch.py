"""The launchers, as far as a machine without a cluster shows it: what they call are stubs that tell what they got."""

import os
import re
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from igpt_jax import InputError, cli, run
from igpt_jax.cli import app
from igpt_jax.evaluation import Figures
from igpt_jax.parallel.processes import LostProcessError
from igpt_jax.training.loop import Interrupted
from igpt_jax.training.metric_log import NonFiniteError

LAUNCH = Path(__file__).parents[1] / "experiments" / "launch"
AWKWARD = ["experiments/my digits.py", "--workdir", "/runs/it's $HOME", "--name", ""]
XPK = dict(CLUSTER="c", TPU_TYPE="v6e-16", IMAGE="i:1", STORAGE="runs")
TPU_VM = dict(TPU="t", ZONE="z")
SHOW = "printf '<%s>' \"$@\"; echo\n"


@pytest.fixture
def stubs(tmp_path):
    """A folder for the PATH, with what the launchers call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    add(folder, "igpt", SHOW + "exit ${CODE-0}\n")
    add(folder, "srun", 'while [[ $1 == -* ]]; do shift; done; exec "$@"\n')
    add(folder, "scontrol", SHOW)
    add(folder, "xpk", SHOW)
    # ssh to every worker ends in a shell, which need not be bash
    add(folder, "gcloud", 'for word; do [[ $word != --command=* ]] || sh -c "${word#--command=}"; done\n')
    return folder


def add(folder, name, body):
    (folder / name).write_text(f"#!/bin/bash\n{body}")
    (folder / name).chmod(0o755)


def launch(script, *args, stubs, **env):
    task = dict(SLURM_JOB_ID="7", SLURM_STEP_TASKS_PER_NODE="1", SLURM_LOCALID="0")
    env = {"PATH": f"{stubs}:/usr/bin:/bin", **task, **env}
    command = ["bash", str(LAUNCH / script), *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=stubs.parent, env=env, timeout=60)


def xpk(stubs, *args, there, **env):
    """The words that xpk gets, and what its command prints in a container with the variables `there`."""
    words = re.findall(r"<(.*?)>", launch("xpk.sh", "digits", *args, stubs=stubs, **XPK, **env).stdout, re.DOTALL)
    there = {"PATH": f"{stubs}:{os.environ['PATH']}", **there}
    command = ["bash", "-c", words[-1].removeprefix("--command=")]
    return words, subprocess.run(command, capture_output=True, text=True, env=there).stdout


def shown(args):
    return "".join(f"<{arg}>" for arg in args)


def test_scripts_parse():
    for script in ("slurm.sbatch", "xpk.sh", "tpu_vm.sh"):
        assert subprocess.run(["bash", "-n", str(LAUNCH / script)], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize(
    ("code", "requeued"), [(0, 0), (1, 0), (2, 0), (130, 0), (143, 1), (75, 1), (137, 1), (134, 1), (139, 1)]
)
def test_slurm_requeues_what_may_do_better(stubs, code, requeued):
    """Up to MAX_RESTARTS times, but always after SIGTERM."""
    ran = launch("slurm.sbatch", "e.py", stubs=stubs, CODE=str(code))
    assert ran.returncode == code
    assert ran.stdout.count("<requeue><7>") == requeued
    ran = launch("slurm.sbatch", "e.py", stubs=stubs, CODE=str(code), SLURM_RESTART_COUNT="3", MAX_RESTARTS="3")
    assert ran.stdout.count("requeue") == (code == 143)


def test_slurm_passes_arguments_on(stubs):
    assert launch("slurm.sbatch", *AWKWARD, stubs=stubs).stdout == shown(["train", *AWKWARD]) + "\n"


def test_slurm_job_that_may_not_be_requeued_says_so(stubs):
    add(stubs, "scontrol", "exit 1\n")
    ran = launch("slurm.sbatch", "e.py", stubs=stubs, CODE="143")
    assert ran.returncode == 143
    assert "not requeued" in ran.stderr


@pytest.mark.parametrize("igpt", ["nowhere/igpt", "igpt"])
def test_slurm_without_igpt_says_so(stubs, igpt):
    (stubs / "igpt").unlink()
    ran = launch("slurm.sbatch", "e.py", stubs=stubs, IGPT=igpt)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"no '{igpt}' on the PATH" in ran.stderr


@pytest.mark.parametrize(
    ("visible", "on_node", "tasks", "local", "ids"),
    [
        (None, None, "2(x4)", "1", "unset"),  # no GPUs
        ("0,1,2,3", "4", "1(x2)", "0", "0,1,2,3"),  # a task a node
        ("0,1,2,3", "4", "4", "3", "3"),  # a task a GPU
        ("0,1,2,3", "4", "2,1", "1", "2,3"),
        ("0", "4", "4", "3", "0"),  # a task a GPU, and it sees no other
        ("0,1", "4", "2", "1", "0,1"),
    ],
)
def test_slurm_tasks_share_the_gpus(stubs, visible, on_node, tasks, local, ids):
    add(stubs, "igpt", "echo ${JAX_LOCAL_DEVICE_IDS-unset}\n")
    env = dict(CUDA_VISIBLE_DEVICES=visible, SLURM_GPUS_ON_NODE=on_node)
    env = {key: value for key, value in env.items() if value is not None}
    ran = launch("slurm.sbatch", "e.py", stubs=stubs, SLURM_STEP_TASKS_PER_NODE=tasks, SLURM_LOCALID=local, **env)
    assert ran.stdout == ids + "\n", ran.stderr


def test_xpk_passes_arguments_on(stubs):
    words, printed = xpk(stubs, *AWKWARD, there={}, XPK_ARGS="--zone=z --dry-run")
    assert words[:3] == ["workload", "create", "--workload=digits"]
    assert {"--restart-on-exit-codes=75", "--zone=z", "--dry-run"} <= set(words)
    assert printed == shown(["train", *AWKWARD]) + "\n"


ENVIRONMENTS = pytest.mark.parametrize(
    ("here", "there", "used"),
    [
        (None, None, "unset"),
        (None, "--own=1", "--own=1"),
        ("--own='2 $HOME'", "--own=1", "--own='2 $HOME'"),
        ("", None, ""),
    ],
)
"""LIBTPU_INIT_ARGS where the launcher runs and where igpt does, and what igpt uses."""


def libtpu(value):
    return {} if value is None else {"LIBTPU_INIT_ARGS": value}


@ENVIRONMENTS
def test_xpk_passes_the_flags_of_tpus_on(stubs, here, there, used):
    add(stubs, "igpt", "printf '<%s>' \"${LIBTPU_INIT_ARGS-unset}\"\n")
    assert xpk(stubs, "e.py", there=libtpu(there), **libtpu(here))[1] == f"<{used}>"


@ENVIRONMENTS
def test_tpu_vm_passes_the_flags_of_tpus_on(stubs, here, there, used):
    add(stubs, "igpt", "printf '<%s>\n' \"${LIBTPU_INIT_ARGS-unset}\"\n")
    worker = "unset LIBTPU_INIT_ARGS; " + "".join(f"export {name}={value}; " for name, value in libtpu(there).items())
    add(stubs, "gcloud", f'{worker}for word; do [[ $word != --command=* ]] || sh -c "${{word#--command=}}"; done\n')
    assert launch("tpu_vm.sh", "start", "e.py", stubs=stubs, **TPU_VM, **libtpu(here)).stderr == ""
    assert until(stubs.parent / "igpt.log", "exit code").startswith(f"<{used}>\n")


@pytest.mark.parametrize("missing", ["CLUSTER", "TPU_TYPE", "IMAGE", "STORAGE"])
def test_xpk_names_what_is_not_set(stubs, missing):
    ran = launch("xpk.sh", "digits", "e.py", stubs=stubs, **{key: XPK[key] for key in XPK if key != missing})
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"{missing} is not set" in ran.stderr


def until(path, text):
    """Waits for a text in a file that another process writes."""
    wait = f"until grep -qs -- {text!r} {path.name}; do sleep 0.05; done"
    subprocess.run(["bash", "-c", wait], cwd=path.parent, timeout=30, check=True)
    return path.read_text()


def test_tpu_vm_restarts_a_lost_run_and_stops_it(stubs):
    log = stubs.parent / "igpt.log"
    add(stubs, "sleep", "exec /bin/sleep 0.1\n")
    first = "[ -e tried ] || { touch tried; exit 75; }\n"
    second = "trap '/bin/sleep 0.3; echo saved; exit 143' TERM; echo up; while :; do /bin/sleep 0.1; done\n"
    add(stubs, "igpt", SHOW + first + second)
    assert launch("tpu_vm.sh", "start", *AWKWARD, stubs=stubs, **TPU_VM).stderr == ""
    until(log, "^up")
    assert "already running" in launch("tpu_vm.sh", "start", "e.py", stubs=stubs, **TPU_VM).stdout
    assert "running" in launch("tpu_vm.sh", "status", stubs=stubs, **TPU_VM).stdout
    launch("tpu_vm.sh", "stop", stubs=stubs, **TPU_VM)
    printed = until(log, "exit code 143").splitlines()
    command = shown(["train", *AWKWARD])
    assert printed == [command, "exit code 75: once more", command, "up", "saved", "exit code 143"]
    assert "not running" in launch("tpu_vm.sh", "status", stubs=stubs, **TPU_VM).stdout


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_tpu_vm_does_not_repeat_what_gets_no_better(stubs, code):
    launch("tpu_vm.sh", "start", "e.py", stubs=stubs, **TPU_VM, CODE=str(code))
    assert until(stubs.parent / "igpt.log", "exit code") == f"<train><e.py>\nexit code {code}\n"


@pytest.mark.parametrize("name", ["gke_jobset.yaml", "gke_jobset_gpu.yaml"])
def test_jobset_is_of_one_piece(name):
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load((LAUNCH / name).read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert [rule["action"] for rule in jobset["spec"]["failurePolicy"]["rules"]] == ["FailJobSet"]
    [replicated] = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["replicas"], job["backoffLimit"], job["completionMode"]) == (1, 0, "Indexed")
    assert job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # Kubernetes allows no podFailurePolicy with another
    assert pod["terminationGracePeriodSeconds"] >= 120
    [container] = pod["containers"]
    assert container["command"][:2] == ["igpt", "train"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    [rule] = job["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    assert (rule["action"], codes["containerName"], codes["operator"]) == ("FailJob", container["name"], "In")
    assert codes["values"] == [1, 2]
    if "coordinator" in jobset["spec"]:
        assert jobset["spec"]["coordinator"]["replicatedJob"] == replicated["name"]
        assert f"--num-processes={job['parallelism']}" in container["args"]
        [ids] = [item["value"] for item in container["env"] if item["name"] == "JAX_LOCAL_DEVICE_IDS"]
        assert len(ids.split(",")) == container["resources"]["limits"]["nvidia.com/gpu"]


def test_the_readme_and_the_command_line_say_the_same_exit_codes():
    documented = {*map(int, re.findall(r"^\| (\d+) \|", (LAUNCH / "README.md").read_text(), re.MULTILINE))}
    assert documented - app.EXIT_CODES.keys() == {0, 137}  # done; killed
    assert app.EXIT_CODES.keys() <= documented


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (None, 0),
        (NonFiniteError("step 3: loss nan"), 1),
        (InputError("optim.lr: no"), 2),
        (LostProcessError("lost process 1 of 2"), 75),
        (KeyboardInterrupt(), 130),
        (Interrupted(signal.SIGINT, 3), 130),
        (Interrupted(signal.SIGTERM, 3), 143),
    ],
    ids=repr,
)
def test_igpt_train_ends_with_the_exit_codes_of_the_readme(monkeypatch, ends, code):
    """Of a run that does nothing but end so."""

    def train(*args, **options):
        if ends is not None:
            raise ends
        return SimpleNamespace(figures=Figures({}, "nats_per_token", np.zeros(1), "held-out"), context=None)

    def report(trained, levels):
        return run.Report(3, ())

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr("igpt_jax.analysis.beside.beside", lambda figures, context: figures)
    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(run, "report", report)
    monkeypatch.setattr(os, "_exit", leave)
    try:
        ended_with = cli.main(["train", str(LAUNCH.parent / "digits.py")])
    except SystemExit as stop:
        ended_with = stop.code
    assert ended_with == code
