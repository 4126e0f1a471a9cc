"""Flags of the TPU compiler: by the version of libtpu, and set before JAX reads them."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from igpt_jax.tpu_flags import EVERYWHERE, OVERLAP, VARIABLE, set_tpu_flags

FUSION = "--xla_tpu_enable_async_collective_fusion=true"


@pytest.mark.parametrize(
    ("version", "flags"), [("0.0.42", OVERLAP), ("0.0.9.1", OVERLAP), ("0.0.43", EVERYWHERE), ("0.1.0", EVERYWHERE)]
)
def test_flags_are_those_that_the_version_takes(version, flags, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    monkeypatch.setattr(os, "environ", {})
    set_tpu_flags()
    assert os.environ == {VARIABLE: flags}
    assert (FUSION in flags.split()) == (version in ("0.0.42", "0.0.9.1"))
    for own in ("", "--own=1"):
        monkeypatch.setattr(os, "environ", {VARIABLE: own})
        set_tpu_flags()
        assert os.environ == {VARIABLE: own}


def test_nothing_is_set_without_a_tpu_compiler(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(os, "environ", {})
    set_tpu_flags()
    assert os.environ == {}


def test_a_command_sets_them_before_it_imports_jax():
    program = """
import importlib.metadata, os, sys
real = importlib.metadata.version
importlib.metadata.version = lambda name: "0.0.52" if name == "libtpu" else real(name)

class Watch:
    def find_spec(self, name, *rest):
        if name == "jax":
            print(os.environ.get("LIBTPU_INIT_ARGS"))

sys.meta_path.insert(0, Watch())
from igpt_jax.cli import main
main(["info", "nowhere"])
"""
    env = {key: value for key, value in os.environ.items() if key != VARIABLE}
    ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert ran.stdout.splitlines()[0] == EVERYWHERE, ran.stderr
