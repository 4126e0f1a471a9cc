"""The five recipes of CONTRIBUTING.md work as they stand there, in a copy of the package and one process."""

import json
import re
import shutil

import numpy as np

from tests.processes import finish, popen
from tests.test_layering import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()

RUN_ALL = """
import contextlib, io, json, sys
from igpt_jax import plugins
from igpt_jax.cli import main
from igpt_jax.data.sources import SOURCES
from igpt_jax.evaluation import EVALUATORS
from igpt_jax.model.attention import BACKENDS
from igpt_jax.objectives import OBJECTIVES

def run(arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    done.append((code, out.getvalue(), err.getvalue()))

train, evaluate, sample = json.loads(sys.argv[1])
done = []
run([*train, "--plugin", "my_experiment.py"])  # a file that is both registers its parts once
for table in (SOURCES, EVALUATORS, BACKENDS, OBJECTIVES):
    table.popitem()
plugins._loaded.clear()
run(evaluate[:evaluate.index("--plugin")])
run(evaluate)
run(sample)
run([*sample[:sample.index("--epsilon")], "--temperature", "0", "--out", "likeliest.npy"])
json.dump(done, sys.__stdout__)
"""


def code_of(first_line):
    return re.search(rf"```python\n# {re.escape(first_line)}\n(.*?)```", TEXT, re.DOTALL)[1]


def test_five_extensions_in_a_copy_of_the_package(tmp_path):
    shutil.copytree(ROOT / "igpt_jax", tmp_path / "igpt_jax", ignore=shutil.ignore_patterns("__pycache__"))
    rules = tmp_path / "igpt_jax" / "rules.py"
    above, field = (code_of(f"igpt_jax/rules.py, {where} RuleSettings") for where in ("above", "at the end of"))
    seams = r"\n(?=@dataclass\(frozen=True\)\nclass RuleSettings|\nRULES: )"
    head, settings, table = re.split(seams, rules.read_text())
    rules.write_text("\n".join([head, above, "", settings + field, table]))
    (tmp_path / "my_experiment.py").write_text(code_of("my_experiment.py"))
    commands = [line.split()[1:] for line in re.findall(r"^    igpt .*my_experiment\.py.*$", TEXT, re.MULTILINE)]
    running = popen(["-c", RUN_ALL, json.dumps(commands)], 1, tmp_path, PYTHONPATH=str(tmp_path))
    [(code, out, err)] = finish([running])
    assert code == 0, err
    done = json.loads(out)
    trained, alone, evaluated = done[:3]
    assert [code for code, _, _ in done] == [0, 2, 0, 0, 0], done
    assert "plugins" in alone[2]
    nats = [re.search(r"nats_per_lower_token ([\d.]+)", shown)[1] for _, shown, _ in (trained, evaluated)]
    assert nats[0] == nats[1]
    assert re.search(r"brightness \d+\.\d+", evaluated[1])
    workdir = tmp_path / "runs" / "stripes"
    assert json.loads((workdir / "config.json").read_text())["compute"]["attention"] == "plain"
    assert (workdir / "completions.png").stat().st_size > 100
    # no two colours have probability 0.6, so the most likely one alone stays
    np.testing.assert_array_equal(np.load(workdir / "drawn.npy"), np.load(tmp_path / "likeliest.npy"))
