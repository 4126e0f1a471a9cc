"""SIGKILL at every boundary of a save, again and again in one run: no torn checkpoint is taken, and nothing is lost."""

import re
import signal

import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.pretrained import load_workdir
from tests.chaos.victim import POINTS
from tests.processes import finish, lines, popen
from tests.small_run import state_bytes

KEEP = 2
ITEMS = {"params", "ema", "rest", "meta"}


def run(workdir, steps, keep=KEEP, deadly=()):
    """Trains to the end, or to its death. (exit code, stderr)."""
    [(code, _, err)] = finish([popen(["-m", "tests.chaos.victim", workdir, steps, keep, *deadly], 1)])
    return code, err


def whole(workdir):
    """The steps whose checkpoint has its name."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())


def tree(workdir):
    """What lies in the directory of checkpoints: name -> files."""
    return {
        top.name: {p.relative_to(top) for p in top.rglob("*") if p.is_file()}
        for top in (workdir / "checkpoints").glob("*")
    }


def of_any_step(files):
    """Without the arrays' files, which are named anew in every save."""
    return {p for p in files if p.parent.name != "d"}


def landed(workdir, point, step, before, nth):
    """Whether the disk is what a death at that point of saving `step` leaves, the nth save since it was `before`."""
    now, name = tree(workdir), f"{step}.orbax-checkpoint-tmp"
    tmp, final = workdir / "checkpoints" / name, of_any_step(now.pop(str(step), ()))
    items = {p.name for p in tmp.glob("*") if p.is_dir()}
    if point == "before":
        return not final and name not in now
    if point == "inside":
        return not final and any(tmp.rglob("d/*")) and not items >= ITEMS
    if point == "uncommitted":
        return not final and items == ITEMS
    if not final or name in now:
        return False
    if point == "committed":
        kept = range(max(1, step - KEEP), step)  # by the save before
        return (
            now == before if nth == 1 else {s: of_any_step(x) for s, x in now.items()} == {str(s): final for s in kept}
        )
    return sum(x < before[s] if s in before else of_any_step(x) < final for s, x in now.items()) == 1


def chain(workdir, straight, points, deaths, rng):
    """Kills one run `deaths` times at each point, in random order, and lets it finish. Gives the deaths counted."""
    counts = dict.fromkeys(points, 0)
    newest, length = 0, whole(straight)[-1]
    for point in rng.permutation([*points] * deaths).tolist():
        nth = int(rng.integers(1, 3))
        skip = {"inside": int(rng.integers(8)), "deleting": int(rng.integers(1, 20))}.get(point, 0)
        before = {name: files for name, files in tree(workdir).items() if name.isdigit()}
        code, err = run(workdir, length, deadly=(point, nth, skip))
        assert code == -signal.SIGKILL, err
        if newest:
            assert f"continuing from step {newest}" in err, err
        steps = whole(workdir)
        newest = max(steps, default=0)
        saving = newest + (point in ("before", "inside", "uncommitted"))
        assert landed(workdir, point, saving, before, nth), (point, nth, skip, before, tree(workdir))
        assert saving < length, "the run is too short for so many deaths"
        for step in steps:
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
        loaded = load_workdir(workdir, step=step)
    except InputError as error:
        assert re.search(rf"checkpoint {step} is damaged", str(error))  # noqa: PT017
    else:
        ours = {name: np.asarray(x).tobytes() for name, x in loaded.params.items() if not isinstance(x, dict)}
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
    ("straight", "points", "deaths"),
    [
        pytest.param(8, ("inside", "deleting"), 1, id="twice"),
        pytest.param(110, POINTS, 11, id="55 times", marks=pytest.mark.chaos),
    ],
    indirect=["straight"],
)
def test_killed_at_every_boundary_of_a_save(straight, points, deaths, tmp_path, record_counts):
    counts = chain(tmp_path / "run", straight, points, deaths, np.random.default_rng(deaths))
    record_counts("SIGKILL landed", counts)
    assert counts == dict.fromkeys(points, deaths)


@pytest.mark.parametrize("straight", [8], indirect=True)
def test_without_a_kill_the_check_fails(tmp_path, straight):
    """The control: a run that ends by itself has landed nowhere."""
    code, err = run(tmp_path / "run", 5)
    assert code == 0, err
    for nth in (1, 2):
        before = {str(step): tree(straight)[str(step)] for step in range(6 - nth - KEEP, 6 - nth)}
        assert not any(landed(tmp_path / "run", point, 5, before, nth) for point in POINTS)
