"""SIGKILL at every boundary of a save, again and again in one run: no torn checkpoint is taken, and nothing is lost."""

import re
import signal

import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.training.pretrained import load_workdir
from tests.chaos.victim import POINTS
from tests.processes import finish, lines, popen
from tests.training.test_resume import state_bytes

KEEP = 2
ITEMS = {"params", "ema", "rest", "meta"}


def run(workdir, steps, keep=KEEP, deadly=()):
    """Trains to the end, or to its death. (exit code, stderr)."""
    [(code, _, err)] = finish([popen(["-m", "tests.chaos.victim", workdir, steps, keep, *deadly], 1)])
    return code, err


def whole(workdir):
    """The steps whose checkpoint has its name."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())


def files(directory):
    """Of a checkpoint, without the arrays' own, which are named anew every time."""
    return {p.relative_to(directory) for p in directory.rglob("*") if p.is_file() and p.parent.name != "d"}


def tree(workdir):
    return {p.name: sorted(map(str, files(p))) for p in (workdir / "checkpoints").glob("*")}


def landed(workdir, point, step):
    """Whether the disk is what a death at that point of saving `step` leaves."""
    final = workdir / "checkpoints" / str(step)
    tmp = final.with_name(f"{step}.orbax-checkpoint-tmp")
    named = {p.name for p in tmp.glob("*") if p.is_dir()}
    older = [final.with_name(str(s)) for s in whole(workdir) if s < step]
    torn = [old for old in older if files(old) < files(final)]
    return {
        "before": not tmp.exists() and not final.exists(),
        "inside": not final.exists() and any(tmp.rglob("d/*")) and not named >= ITEMS,
        "uncommitted": not final.exists() and named == ITEMS,
        "committed": final.exists() and not tmp.exists() and len(older) - len(torn) == min(KEEP, step - 1),
        "deleting": final.exists() and not tmp.exists() and len(torn) == 1,
    }[point]


def chain(workdir, straight, deaths, rng):
    """Kills one run `deaths` times at every point, in random order, and lets it finish. Gives the deaths counted."""
    counts = dict.fromkeys(POINTS, 0)
    newest, length = 0, whole(straight)[-1]
    for point in rng.permutation([*POINTS] * deaths).tolist():
        nth = int(rng.integers(1, 3))
        skip = int(rng.integers(8 if point == "inside" else 20)) if point in ("inside", "deleting") else 0
        code, err = run(workdir, length, deadly=(point, nth, skip))
        assert code == -signal.SIGKILL, err
        if newest:
            assert f"continuing from step {newest}" in err, err
        found = whole(workdir)
        newest = max(found, default=0)
        saving = newest + (point in ("before", "inside", "uncommitted"))
        assert landed(workdir, point, saving), (point, nth, skip, saving, tree(workdir))
        assert saving < length, "the run is too short for so many deaths"
        for step in found:
            same_or_refused(workdir, straight, step)
        if newest:
            assert state_bytes(workdir, newest) == state_bytes(straight, newest)
        counts[point] += 1
    code, err = run(workdir, length)
    assert code == 0, err
    assert f"continuing from step {newest}" in err
    assert whole(workdir) == [length - 1, length]
    for step in whole(workdir):
        assert state_bytes(workdir, step) == state_bytes(straight, step)
    assert lines(workdir) == lines(straight)
    assert not (workdir / "damaged").exists()
    return counts


def same_or_refused(workdir, straight, step):
    """A checkpoint that is half deleted may still have all that is asked of it; else it is named."""
    try:
        found = load_workdir(workdir, step=step)
    except InputError as error:
        assert re.search(rf"checkpoint {step} is damaged", str(error))  # noqa: PT017
    else:
        ours = {name: np.asarray(x).tobytes() for name, x in found.params.items() if not isinstance(x, dict)}
        theirs = state_bytes(straight, step)
        assert ours == {name: theirs[f"['ema']['{name}']"] for name in ours}


@pytest.fixture(scope="module")
def straight(tmp_path_factory, request):
    """The run that nothing happens to, with all its checkpoints."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    code, err = run(workdir, request.param, keep=10**6)
    assert code == 0, err
    return workdir


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("straight", "deaths"),
    [pytest.param(16, 1, id="once"), pytest.param(110, 11, id="55 times", marks=pytest.mark.chaos)],
    indirect=["straight"],
)
def test_killed_at_every_boundary_of_a_save(straight, deaths, tmp_path, record_counts):
    counts = chain(tmp_path / "run", straight, deaths, np.random.default_rng(deaths))
    record_counts("SIGKILL landed", counts)
    assert counts == dict.fromkeys(POINTS, deaths)


@pytest.mark.parametrize("straight", [16], indirect=True)
def test_without_a_kill_the_check_fails(tmp_path, straight):
    """The control: a run that ends by itself has landed nowhere."""
    code, err = run(tmp_path / "run", 5)
    assert code == 0, err
    assert not any(landed(tmp_path / "run", point, step) for point in POINTS[1:] for step in (4, 5))
    assert not landed(tmp_path / "run", "before", 5)
