"""Who may know whom, and what importing the package costs."""

import json
import subprocess
import sys
from pathlib import Path

import igpt_jax

ROOT = Path(igpt_jax.__file__).parents[1]


def test_import_linter_contracts():
    """In a process of its own, since it switches off the loggers of the one it runs in."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_importing_the_package_loads_jax_flax_and_numpy_only():
    """Top-level packages that `import igpt_jax` adds to those that jax, flax and numpy load anyway."""
    code = """
import json, sys
import jax, jax.numpy, numpy, flax.linen
before = {name.partition('.')[0] for name in sys.modules}
import igpt_jax
print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules} - before)))
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    added = {name for name in json.loads(out) if name not in sys.stdlib_module_names}
    assert added <= {"igpt_jax", "annotated_types", "dacite"}, added


def test_files_stay_readable():
    files = [p for room in ("igpt_jax", "tests") for p in (ROOT / room).rglob("*.py")]
    long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > 350}
    assert not long, "split along its own seams"
