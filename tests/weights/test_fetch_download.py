"""igpt fetch against a server and a network in trouble: what is tried again, continued and given up."""

import re
import resource
import socket
import stat

import pytest

from igpt_jax.weights import fetch as module
from tests.data.made import refused
from tests.weights.fetch_server import BIG, INDEX, PALETTE, SIZE, check, path_of, run


@pytest.mark.parametrize("reset", [False, True])
def test_a_lost_connection_is_tried_again(release, tmp_path, waits, reset):
    """A file of unknown digest that ends early is never taken for whole."""
    release.reset = reset
    release.cut[BIG], release.cut[PALETTE] = [70_000, 0], [100]
    lines = []
    run(release, tmp_path, report=lines.append)
    check(release, tmp_path)
    assert release.gets(BIG) == 3
    assert tuple(waits) == (module.WAITS_S[0], *module.WAITS_S[:2])
    assert len([line for line in lines if BIG in line and "next try in" in line]) == 2


def test_after_giving_up_the_same_command_continues_at_that_file(release, tmp_path, waits):
    release.cut[BIG] = [70_000] * 9
    refused(f"{release.url}.*{BIG}.*the same command continues", run, release, tmp_path)
    assert tuple(waits) == module.WAITS_S
    assert not list(tmp_path.glob(f"*{BIG}*"))
    release.cut.clear()
    release.log.clear()
    run(release, tmp_path)
    assert [name for _, name in release.log] == [BIG, BIG.replace("1-of", "2-of")]
    check(release, tmp_path)


def test_ctrl_c_leaves_whole_files_only(release, tmp_path):
    class Bar:
        def update(self, size):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(release, tmp_path, make_bar=lambda name: Bar() if name == BIG else None)
    assert (tmp_path / INDEX).exists()
    assert not [path for path in tmp_path.iterdir() if BIG in path.name]
    run(release, tmp_path)
    assert release.gets(INDEX) == 1
    check(release, tmp_path)


def test_what_a_killed_process_left_is_removed(release, tmp_path):
    (tmp_path / f".{BIG}.0123456789abcdef.tmp").write_bytes(b"half")
    run(release, tmp_path)
    check(release, tmp_path)


def test_a_checkpoint_that_is_not_there(release, tmp_path, waits):
    says = release.url + r"checkpoints/igpt-s/7/model.ckpt-7.index: .*--step \(131000, 262000, 524000, 1000000\)"
    refused(says, run, release, tmp_path, step=7)
    assert waits == []
    (tmp_path / PALETTE).unlink()
    del release.files[f"/image-gpt/color-clusters/{PALETTE}"]
    assert "--step" not in refused(PALETTE, run, release, tmp_path)


@pytest.mark.parametrize("name", [PALETTE, BIG])
def test_a_server_in_trouble_is_asked_again(release, tmp_path, waits, name):
    release.status[name] = [500, 503, 429]
    run(release, tmp_path)
    assert tuple(waits) == module.WAITS_S[:3]
    check(release, tmp_path)


def test_other_refusals_are_one_line(release, tmp_path, waits):
    release.status[BIG] = [503] * 99
    refused("503", run, release, tmp_path)
    assert tuple(waits) == module.WAITS_S
    waits.clear()
    release.status[BIG] = [403]
    refused(f"{BIG}.*403", run, release, tmp_path)
    assert waits == []


def test_a_full_disk_is_one_line_and_keeps_whole_files(release, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        refused(f"{tmp_path}.*File too large.*complete files are kept", run, release, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob(f"*{BIG}*"))
    run(release, tmp_path)
    assert release.gets(INDEX) == 1
    check(release, tmp_path)


def test_files_get_the_usual_permissions(release, tmp_path):
    """Others may read weights in a shared directory."""
    run(release, tmp_path)
    (tmp_path / "usual").touch()
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert stat.S_IMODE((tmp_path / BIG).stat().st_mode) == usual


def test_a_bar_is_driven_to_the_end(release, tmp_path):
    class Bar:
        total = done = closed = 0

        def update(self, size):
            self.done += size

        def reset(self):
            self.done = 0

        def close(self):
            self.closed += 1

    bars = {}
    run(release, tmp_path, make_bar=lambda name: bars.setdefault(name, Bar()))
    assert (bars[BIG].total, bars[BIG].done, bars[BIG].closed) == (SIZE, SIZE, 1)


def test_redirects_to_another_host_are_followed(release, serve, tmp_path):
    front = serve()
    front.redirect = release.url
    (tmp_path / BIG).write_bytes(release.files[path_of(BIG)])  # HEAD, too
    run(front, tmp_path)
    check(release, tmp_path)


def test_a_server_that_is_not_there_is_said_at_once(tmp_path, waits, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and nobody listens
        for host in (f"127.0.0.1:{unused.getsockname()[1]}", "host.invalid", "a" * 70, "a:b", "[::1", "a:99999", "a b"):
            says = re.escape(f"http://{host}/") + ".*check network and address"
            refused(says, module.fetch, "igpt-s", tmp_path, base_url=f"http://{host}/")
    assert waits == []
