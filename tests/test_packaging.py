"""What is installed: the wheel's contents and metadata, its lower bounds, and its parts that are optional."""

import email.message
import email.parser
import os
import re
import subprocess
import sys
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from igpt_jax import InputError
from igpt_jax.config import DataConfig
from igpt_jax.data.sources import open_source
from igpt_jax.plugins import load_config, load_module, shipped_experiments
from igpt_jax.version import __version__
from tests.test_layering import ROOT

EXPERIMENTS = ["any_order", "denoise", "digits", "emoji", "fashion_mnist", "moving_digits", "restore_emoji"]
EXPERIMENTS += [f"paper/finetune_{name}" for name in ("cifar10", "cifar100", "imagenet")]
EXPERIMENTS += [f"paper/imagenet_{name}" for name in ("l", "l48", "m", "s", "xl")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of the files of a wheel that is built now, and its metadata."""
    folder = tmp_path_factory.mktemp("wheel")
    steps = ["egg_info", "-e", folder, "build", "-b", folder / "build", "bdist_wheel", "-d", folder]
    command = [sys.executable, "setup.py", "-q", *map(str, steps)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        text = file.read(next(name for name in names if name.endswith(".dist-info/METADATA")))
        file.extractall(folder / "site")
    return folder / "site", names, email.parser.BytesParser().parsebytes(text)


def bounds(metadata: email.message.Message, extra: str | None = None) -> dict[str, Version]:
    """Package -> lowest version, of the requirements without a marker or those of one extra."""
    every = map(Requirement, metadata.get_all("Requires-Dist", []))
    chosen = [r for r in every if (r.marker.evaluate({"extra": extra or ""}) if r.marker else extra is None)]
    pairs = {r.name: [Version(s.version) for s in r.specifier if s.operator == ">="] for r in chosen}
    return {name: lowest[0] for name, lowest in pairs.items() if lowest}


def test_the_wheel_has_licence_types_and_experiments(wheel):
    _, names, metadata = wheel
    for name in ("igpt_jax/py.typed", *(f"igpt_jax/experiments/{name}.py" for name in EXPERIMENTS)):
        assert name in names
    (licence,) = (name for name in names if name.endswith("/LICENSE"))
    assert metadata["License-File"] in licence
    assert "MIT" in (metadata["License-Expression"] or metadata["License"])
    assert not metadata.get_all("Project-URL")
    assert {name.split("/")[0] for name in names} == {"igpt_jax", licence.split("/")[0]}


def test_one_version(wheel):
    assert wheel[2]["Version"] == __version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def test_the_lowest_versions_are_those_that_are_claimed(wheel):
    metadata = wheel[2]
    lines = (ROOT / "constraints" / "lowest.txt").read_text().splitlines()
    pins = {name: Version(version) for name, version in (line.split("==") for line in lines if line[:1] != "#")}
    claimed = bounds(metadata)
    for extra in ("tfds", "plot", "enhance", "video", "openai"):
        claimed |= bounds(metadata, extra)
    assert pins == claimed


def test_an_installed_package_finds_its_experiments_from_anywhere(wheel, tmp_path):
    site = wheel[0]
    code = (
        "from igpt_jax import plugins; print(plugins.__file__);"
        "[print(name, plugins.load_config(name, tiny=True).name) for name in plugins.shipped_experiments()]"
    )
    command = [sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": str(site)}
    out = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout
    file, *names = out.splitlines()
    assert file.startswith(str(site))
    assert names == [f"{name} {name.removeprefix('paper/')}" for name in EXPERIMENTS]


def test_names_of_experiments_in_a_checkout(tmp_path, monkeypatch):
    assert list(shipped_experiments()) == EXPERIMENTS
    monkeypatch.chdir(tmp_path)
    assert load_config("digits", tiny=True) == load_config(ROOT / "experiments" / "digits.py", tiny=True)
    (tmp_path / "digits").mkdir()  # a folder is no file of that name
    assert load_config("digits").name == "digits"
    for wrong in ("digit", "nope.py"):
        with pytest.raises(
            InputError, match=f"^experiment {wrong}: no such file.* digits, emoji, fashion_mnist, moving_digits"
        ):
            load_config(wrong)
    with pytest.raises(InputError, match="did you mean 'digits'"):
        load_config("digit")
    with pytest.raises(InputError, match=r"^plugin digits: no such file$"):
        load_module("digits")


FILE = """\
from igpt_jax import Config

def number(text):
    return {line}

def config(tiny=False):
    return Config(seed=number("x"))
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n\ny = undefined\n", r"line 3: NameError: name 'undefined' is not defined"),
        ("x = 1\nif x\n    pass\n", r"line 2: SyntaxError: expected ':'"),
        ("import json\n\nx = json.loads(\n    '{'\n)\n", r"line 3: JSONDecodeError: Expecting property"),
        ("import does_not_parse\n", r"line 1: SyntaxError: .*does_not_parse\.py, line 3"),
        (FILE.format(line="int(text)"), r"line 4: ValueError: invalid literal"),
        (FILE.format(line="3") + "def config():\n    pass\n", r"TypeError: config\(\) got an unexpected keyword"),
        (FILE.format(line="3").replace("def config", "def konfig"), r"has no function config\(tiny=False\)"),
    ],
    ids=["name", "syntax", "in a library", "syntax elsewhere", "in config", "signature", "no config"],
)
def test_an_error_in_an_experiment_has_its_line(tmp_path, monkeypatch, text, says):
    (tmp_path / "does_not_parse.py").write_text("\n\n)\n")
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as refusal:
        load_config("mine.py")
    assert re.match(rf"experiment mine\.py(, |: ){says}", str(refusal.value))
    assert "\n" not in str(refusal.value)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"tfds:mnist needs TensorFlow Datasets.*pip install 'igpt_jax\[tfds\]'$"):
        open_source(DataConfig(source="tfds:mnist"), "train")


def test_fetch_names_its_extra(monkeypatch):
    for name in ("igpt_jax.weights.fetch", "pooch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(InputError, match=r"^igpt fetch needs pooch.*pip install 'igpt_jax\[openai\]'$"):
        import igpt_jax.weights.fetch  # noqa: F401


def test_hints_name_extras_of_the_installed_package(wheel):
    extras = wheel[2].get_all("Provides-Extra")
    hints = [
        f"{path.name}: {hint}"
        for path in (ROOT / "igpt_jax").rglob("*.py")
        for hint in re.findall(r"pip install\b.{,24}", path.read_text())
    ]
    assert hints
    assert [hint for hint in hints if not any(f": pip install 'igpt_jax[{extra}]'" in hint for extra in extras)] == []
