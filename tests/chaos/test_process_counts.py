"""More processes than the suite can afford: the same losses, and damage that only one of them sees."""

import shutil
import signal

import pytest

from tests.processes import ENDLESS, continue_args, finish, lines, start, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with two devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    [(code, _, err)] = finish(start(workdir, 1, 2))
    assert code == 0, err
    return workdir


@pytest.mark.parametrize(("processes", "mesh"), [(4, ()), (2, ("--mesh.data", "1", "--mesh.tensor", "4"))])
def test_losses_do_not_depend_on_the_number_of_processes(alone, tmp_path, processes, mesh):
    """Two devices each. Within 1e-5: sums over devices are taken in another order."""
    done = finish(start(tmp_path / "run", processes, 2, *mesh))
    assert [code for code, _, _ in done] == [0] * processes, done
    expected, measured = lines(alone), lines(tmp_path / "run")
    assert len(measured) == len(expected) == 12
    for a, b in zip(expected, measured, strict=True):
        assert b == pytest.approx(a, rel=1e-5)


def test_damage_that_one_process_sees_is_named_and_the_checkpoint_before_it_used(tmp_path):
    """Each process has half of the state. The second one's half is cut short: both continue from the one before."""
    workdir, split = tmp_path / "run", ("--mesh.data", "1", "--mesh.fsdp", "2")
    running = start(workdir, 2, 1, *ENDLESS, *split)
    wait_for(workdir / "metrics.jsonl", running, more_than=22)
    running[1].send_signal(signal.SIGTERM)
    assert [code for code, _, _ in finish(running)] == [143, 143]
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    before, newest = steps[-2:]
    for path in (workdir / "checkpoints" / str(newest)).rglob("ocdbt.process_1/d/*"):
        path.write_bytes(path.read_bytes()[:20])
    shutil.copytree(workdir, tmp_path / "copy")
    done = finish(start(workdir, 2, 1, *continue_args(newest + 1), *split))
    assert [code for code, _, _ in done] == [0, 0], done
    assert f"checkpoint {newest} is damaged" in done[0][2]
    assert f"continuing from step {before}" in done[0][2]
    assert (workdir / "damaged" / str(newest)).is_dir()
