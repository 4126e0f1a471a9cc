"""igpt fetch: which files it asks a server for, in trouble too, and what it takes for them."""

import re
import resource
import socket
import stat

import pytest
from filelock import FileLock

from igpt_jax.cli import main
from igpt_jax.weights import fetch as module
from tests.data.made import refused
from tests.weights.fetch_server import BIG, INDEX, NAMES, PALETTE, SIZE, check, path_of, run

PALETTE_PATH = f"/image-gpt/color-clusters/{PALETTE}"


class Bar:
    total = done = closed = 0

    def update(self, size):
        self.done += size

    def reset(self):
        self.done = 0

    def close(self):
        self.closed += 1


def test_all_files_arrive_and_are_verified_from_the_record_from_then_on(release, tmp_path):
    assert run(release, tmp_path / "new" / "s") == tmp_path / "new" / "s" / "model.ckpt-1000000"
    check(release, tmp_path / "new" / "s")
    release.log.clear()
    (tmp_path / "new" / "s" / BIG).unlink()
    bars = {}
    run(release, tmp_path / "new" / "s", make_bar=lambda name: bars.setdefault(name, Bar()))
    assert (bars[BIG].total, bars[BIG].done, bars[BIG].closed) == (SIZE, SIZE, 1)
    assert release.log == [("GET", BIG)]
    check(release, tmp_path / "new" / "s")
    (tmp_path / "new" / "usual").touch()  # others may read weights in a shared directory
    usual, mode = ((tmp_path / "new" / name).stat().st_mode for name in ("usual", f"s/{BIG}"))
    assert stat.S_IMODE(mode) == stat.S_IMODE(usual)


def test_the_addresses_are_those_of_the_release(tmp_path, monkeypatch):
    """Paths for all sizes, --bert and --step, in full: 32 shards for s and m, 64 for l."""
    asked: dict[str, str] = {}
    monkeypatch.setattr(module, "_fetch_all", lambda directory, urls, *more: asked.update(urls))
    for model, n in (("igpt-s", 32), ("igpt-m", 32), ("igpt-l", 64)):
        asked.clear()
        module.fetch(module.weight_files(model, bert=True, step=131_000), tmp_path / model)
        base = "https://openaipublic.blob.core.windows.net/image-gpt"
        ends = ["index", "meta", *(f"data-{i:05d}-of-{n:05d}" for i in range(n))]
        names = [f"model.ckpt-131000.{end}" for end in ends]
        wanted = {name: f"{base}/checkpoints/{model}-bert/131000/{name}" for name in names}
        assert asked == {PALETTE: f"{base}/color-clusters/{PALETTE}"} | wanted


@pytest.mark.parametrize("reset", [False, True])
def test_lost_connections_and_a_server_in_trouble_are_tried_again(release, tmp_path, waits, reset):
    """A file of unknown digest that ends early is never taken for whole."""
    release.reset = reset
    release.cut[BIG], release.cut[PALETTE], release.status[INDEX] = [70_000, 0], [100], [500, 503, 429]
    lines = []
    run(release, tmp_path, report=lines.append)
    check(release, tmp_path)
    assert (release.gets(BIG), len(waits)) == (3, 6)
    assert sum(BIG in line and "no complete answer" in line for line in lines) == 2
    assert sum(INDEX in line and "the server answers" in line for line in lines) == 3


def test_after_giving_up_the_same_command_continues_at_that_file(release, tmp_path, waits):
    release.cut[BIG] = [70_000] * 9
    refused(f"{release.url}.*{BIG}.*the same command continues", run, release, tmp_path)
    assert len(waits) == module.RETRIES
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "SHA256SUMS", PALETTE, *NAMES[:3]}
    release.cut.clear()
    release.log.clear()
    run(release, tmp_path)
    assert [name for _, name in release.log] == [BIG, BIG.replace("1-of", "2-of")]
    check(release, tmp_path)


def test_ctrl_c_and_a_full_disk_leave_whole_files_only(release, tmp_path):
    class Interrupted(Bar):
        def update(self, size):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(release, tmp_path, make_bar=lambda name: Interrupted() if name == BIG else None)
    assert (tmp_path / INDEX).exists()
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "SHA256SUMS", PALETTE, *NAMES[:3]}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        refused(f"{tmp_path}.*File too large.*complete files are kept", run, release, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "SHA256SUMS", PALETTE, *NAMES[:3]}
    run(release, tmp_path)
    check(release, tmp_path)


def test_what_is_not_there_or_forbidden_is_said_at_once(release, tmp_path, waits):
    says = release.url + r"checkpoints/igpt-s/7/model.ckpt-7.index: .*\(404\).*131000, 262000, 524000, 1000000"
    refused(says, run, release, tmp_path, step=7)
    release.status[BIG] = [403]
    refused(f"{BIG}.*403", run, release, tmp_path)
    (tmp_path / PALETTE).unlink()
    del release.files[PALETTE_PATH]
    assert "steps" not in refused(PALETTE, run, release, tmp_path)
    assert waits == []


def test_addresses_where_nobody_answers(tmp_path, waits, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    files = module.weight_files("igpt-s")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and nobody listens
        for host in (f"127.0.0.1:{unused.getsockname()[1]}", "host.invalid", "a" * 70, "a:b", "[::1", "a:99999", "a b"):
            says = re.escape(f"http://{host}/") + ".*check network and address"
            refused(says, module.fetch, files, tmp_path, f"http://{host}/")
    for url in ("openai.com", "file:///etc/", "ftp://a/"):
        refused(f"got {url!r}", module.fetch, files, tmp_path / "new", url)
    assert not (tmp_path / "new").exists()


def test_a_file_that_changed_here_or_there_or_has_no_digest_is_not_taken(release, tmp_path, waits):
    run(release, tmp_path)
    damaged = bytearray((tmp_path / BIG).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / BIG).write_bytes(damaged)
    refused(f"{tmp_path / BIG}: .*delete it", run, release, tmp_path)
    assert (tmp_path / BIG).read_bytes() == damaged
    (tmp_path / BIG).unlink()
    release.files[path_of(BIG)] = bytes(SIZE)
    refused(f"{release.url}.*{BIG}.*SHA256SUMS", run, release, tmp_path)
    assert not (tmp_path / BIG).exists()
    (tmp_path / "other").mkdir()  # nobody knows whether this one is whole, or of this model
    (tmp_path / "other" / INDEX).write_bytes(release.files[path_of(INDEX)])
    refused(f"{tmp_path / 'other' / INDEX}: is not in SHA256SUMS.*delete it", run, release, tmp_path / "other")
    assert INDEX not in (tmp_path / "other" / "SHA256SUMS").read_text()


def test_a_wrong_palette_is_refused(release, tmp_path, rng, waits):
    release.files[PALETTE_PATH] = rng.bytes(6272)
    refused(f"{PALETTE}: .*the release", run, release, tmp_path)
    assert not (tmp_path / PALETTE).exists()
    (tmp_path / PALETTE).write_bytes(release.files[PALETTE_PATH])
    refused(f"{tmp_path / PALETTE}: .*the release.*delete it", run, release, tmp_path)


def test_another_step_joins_and_another_model_does_not(release, tmp_path, rng):
    run(release, tmp_path)
    release.log.clear()
    new = [name.replace("1000000", "131000") for name in NAMES]
    release.files |= {path_of(name, step=131_000): rng.bytes(50) for name in new}
    assert run(release, tmp_path, step=131_000) == tmp_path / "model.ckpt-131000"
    assert {name for _, name in release.log} == set(new)
    check(release, tmp_path, NAMES + new)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    refused("holds igpt-s; name another directory for igpt-s-bert", run, release, tmp_path, bert=True)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_record_keeps_what_others_wrote(release, tmp_path):
    other = "# mine\n" + "A" * 64 + " *other.bin"
    (tmp_path / "SHA256SUMS").write_text(other)
    run(release, tmp_path)
    text = (tmp_path / "SHA256SUMS").read_text()
    assert text.startswith(other + "\n")
    (tmp_path / "SHA256SUMS").write_text(text + "torn lin")
    refused("line 8", run, release, tmp_path)


def test_directories_that_cannot_be_one(release, tmp_path):
    with FileLock(tmp_path / ".lock"):
        refused(f"{tmp_path}: another process", run, release, tmp_path)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(str(tmp_path / "file"), run, release, path)
    assert release.log == []


def test_the_command_prints_the_prefix_and_nothing_else(release, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    release.status[INDEX] = [500]
    assert main(["fetch", "igpt-s", "--base-url", release.url]) == 0
    shown = capsys.readouterr()
    assert shown.out == "weights/igpt-s/model.ckpt-1000000\n"
    assert "github.com/openai/image-gpt" in shown.err
    for name in (PALETTE, *NAMES):
        assert len(re.findall(rf"^igpt: {name} .*downloaded$", shown.err, re.MULTILINE)) == 1
    check(release, tmp_path / "weights" / "igpt-s")
    release.files = {path.replace("igpt-s/", "igpt-s-bert/"): body for path, body in release.files.items()}
    assert main(["fetch", "igpt-s", "--bert", "--quiet", "--base-url", release.url]) == 0
    assert capsys.readouterr() == ("weights/igpt-s-bert/model.ckpt-1000000\n", "")
    assert main(["fetch", "igpt-xl", "--out", "new"]) == 2
    assert "igpt-xl" in capsys.readouterr().err
    refused("must be one of igpt-s, igpt-m, igpt-l", module.weight_files, "xl")
    assert not (tmp_path / "new").exists()
