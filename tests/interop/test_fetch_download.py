"""igpt fetch against a server and a network in trouble: what is continued, started over, asked again and given up."""

import resource
import socket
from types import SimpleNamespace

import pytest

from igpt_jax.config import InputError
from igpt_jax.interop import fetch as module
from tests.interop.fetch_server import BIG, INDEX, PALETTE, SIZE, Handler, check, leave_part, path_of, refused, run


class Told(module.Progress):
    """Remembers what it is told, and stops the work after `until` bytes."""

    def __init__(self, until=float("inf")):
        self.until, self.bytes, self.begun, self.ended, self.files = until, 0, [], [], []

    def begin(self, work, total, done=0):
        self.begun.append((work, total, done))
        self.ended.append(self.bytes)
        self.bytes = done

    def moved(self, size):
        self.bytes += size
        if self.bytes >= self.until:
            raise KeyboardInterrupt

    def finished(self, name, size, how):
        self.files.append((name, size, how))


@pytest.mark.parametrize("reset", [False, True])
def test_a_lost_connection_is_continued_by_range(release, tmp_path, waits, reset):
    release.reset = reset
    release.cut[BIG] = [70_000] * 5 if not reset else [200_000, SIZE]
    run(release, tmp_path)
    check(release, tmp_path)
    if not reset:  # more breaks than tries in a row, each of which got further; no byte was sent twice
        assert len(release.gets(BIG)) == 5 > len(module.BACKOFF)
        assert release.sent[BIG] == SIZE
        assert waits == [module.BACKOFF[0]] * 4


def test_it_gives_up_where_it_gets_no_further_and_continues_when_asked_again(release, tmp_path, waits):
    release.cut[BIG], release.ranges = [70_000], False
    message = refused(release, tmp_path)
    assert BIG in message
    assert release.url in message
    assert "70000 of 300000" in message
    assert "the same command continues" in message
    assert tuple(waits) == module.BACKOFF
    assert (tmp_path / f"{BIG}.part").stat().st_size == 70_000
    assert not (tmp_path / BIG).exists()
    release.cut, release.ranges = {}, True
    run(release, tmp_path)
    assert release.gets(BIG)[-1] == "bytes=70000-"
    check(release, tmp_path)


def test_a_part_of_an_earlier_call_is_continued(release, tmp_path):
    leave_part(release, tmp_path)
    run(release, tmp_path)
    assert release.gets(BIG) == ["bytes=100000-"]
    assert release.sent[BIG] == SIZE - 100_000
    assert release.gets(INDEX) == []
    check(release, tmp_path)


def test_a_server_that_ignores_range_starts_that_file_over(release, tmp_path):
    leave_part(release, tmp_path)
    release.ranges = False
    run(release, tmp_path)
    assert release.sent[BIG] == SIZE
    check(release, tmp_path)


@pytest.mark.parametrize("noticed", ["HEAD", "If-Range", "ETag of the rest"])
def test_parts_of_two_versions_are_never_joined(release, tmp_path, rng, noticed):
    leave_part(release, tmp_path)
    if noticed != "HEAD":  # it changes between HEAD and GET
        release.head_etag[BIG] = (tmp_path / f"{BIG}.part.etag").read_text()
    release.if_range = noticed == "If-Range"
    release.files[path_of(BIG)] = rng.bytes(SIZE)
    run(release, tmp_path)
    asked = {"HEAD": [None], "If-Range": ["bytes=100000-"], "ETag of the rest": ["bytes=100000-", None]}
    assert release.gets(BIG) == asked[noticed]
    check(release, tmp_path)


@pytest.mark.parametrize("etag", [None, "", '"other"'])
def test_a_part_of_unknown_version_starts_over(release, tmp_path, etag):
    leave_part(release, tmp_path)
    release.if_range = False
    tag = tmp_path / f"{BIG}.part.etag"
    tag.unlink() if etag is None else tag.write_text(etag)
    (tmp_path / f"{BIG}.part").write_bytes(b"other" * 20_000)
    run(release, tmp_path)
    check(release, tmp_path)


def test_a_server_without_etags_is_not_asked_for_ranges(release, tmp_path):
    release.etags = False
    release.cut[BIG] = [70_000, SIZE]
    run(release, tmp_path)
    assert release.gets(BIG) == [None, None]
    check(release, tmp_path)


@pytest.mark.parametrize("head_says_size", [True, False])
def test_a_part_that_is_whole_is_finished(release, tmp_path, monkeypatch, head_says_size):
    with monkeypatch.context() as patch:  # killed just before the file gets its name

        def killed(a, b):
            raise KeyboardInterrupt

        patch.setattr(module, "os", SimpleNamespace(replace=killed, fsync=lambda fd: None))
        with pytest.raises(KeyboardInterrupt):
            run(release, tmp_path)
    assert (tmp_path / f"{PALETTE}.part").exists()
    release.sent.clear()
    release.log.clear()
    release.lengths = head_says_size
    run(release, tmp_path)
    assert PALETTE not in release.sent
    assert release.gets(PALETTE) == ([] if head_says_size else ["bytes=6272-"])  # the latter is answered with 416
    check(release, tmp_path)


@pytest.mark.parametrize("head_says_size", [True, False])
def test_a_part_longer_than_the_file_starts_over(release, tmp_path, head_says_size):
    leave_part(release, tmp_path)
    (tmp_path / f"{BIG}.part").write_bytes(bytes(SIZE + 1))
    release.lengths = head_says_size
    run(release, tmp_path)
    assert release.gets(BIG) == [f"bytes={SIZE + 1}-", None]
    check(release, tmp_path)


def test_a_checkpoint_that_is_not_there(release, tmp_path, waits):
    message = refused(release, tmp_path, step=7)
    assert release.url.removesuffix("/") + "/checkpoints/igpt-s/7/model.ckpt-7.index" in message
    assert "not on the server" in message
    assert "--step" in message
    assert waits == []
    assert not [name for method, name, _ in release.log if method == "GET"]  # nothing was fetched in vain
    del release.files[f"/image-gpt/color-clusters/{PALETTE}"]
    message = refused(release, tmp_path)
    assert PALETTE in message
    assert "--step" not in message


@pytest.mark.parametrize("name", [INDEX, BIG])
def test_a_server_in_trouble_is_asked_again(release, tmp_path, waits, name):
    release.status[name] = [500, 503, 429]
    run(release, tmp_path)
    assert tuple(waits) == module.BACKOFF[:3]
    check(release, tmp_path)


def test_other_refusals_are_one_line(release, tmp_path, waits):
    release.status[BIG] = [503] * 99
    assert "503" in refused(release, tmp_path)
    assert tuple(waits) == module.BACKOFF
    waits.clear()
    release.status[BIG] = [403]
    message = refused(release, tmp_path)
    assert "403" in message
    assert BIG in message
    assert waits == []


@pytest.mark.parametrize("claim", [SIZE + 5, SIZE - 5])
def test_a_size_that_is_not_what_the_server_said(release, tmp_path, claim):
    release.claims[BIG] = claim
    if claim < SIZE:  # HEAD, before the file grew
        release.lengths = False
        real = Handler.answer

        def lie(self, status, **headers):
            if self.path.endswith(BIG) and self.command == "HEAD":
                headers["Content-Length"] = claim
            real(self, status, **headers)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Handler, "answer", lie)
            message = refused(release, tmp_path)
    else:
        message = refused(release, tmp_path)
    assert BIG in message
    assert f"of {claim} bytes" in message
    assert not (tmp_path / BIG).exists()
    release.claims, release.lengths = {}, True
    run(release, tmp_path)
    check(release, tmp_path)


def test_a_file_that_grows_between_the_questions(release, tmp_path):
    release.claims[BIG] = SIZE + 5
    real = Handler.do_GET

    def grown(self):
        release.claims.clear()
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "do_HEAD", real)
        patch.setattr(Handler, "do_GET", grown)
        message = refused(release, tmp_path)
    assert f"{SIZE} bytes now and had {SIZE + 5}" in message
    run(release, tmp_path)
    check(release, tmp_path)


@pytest.mark.parametrize("switch", ["lengths", "heads"])
def test_a_server_that_says_less(release, tmp_path, switch):
    setattr(release, switch, False)
    told = Told()
    run(release, tmp_path, progress=told)
    check(release, tmp_path)
    assert told.begun[-1][:2] == ("fetching", None)


def test_a_full_disk_is_one_line_and_keeps_the_part(release, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        message = refused(release, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in message
    assert "File too large" in message
    assert "is kept" in message
    assert (tmp_path / f"{BIG}.part").stat().st_size == 150_000
    run(release, tmp_path)
    assert release.gets(BIG)[-1] == "bytes=150000-"
    check(release, tmp_path)


def test_progress_adds_up_over_the_whole_download(release, tmp_path):
    sizes = {path.rpartition("/")[2]: len(body) for path, body in release.files.items()}
    leave_part(release, tmp_path)
    told = Told()
    release.cut[BIG] = [50_000, SIZE]
    release.status[BIG] = []
    release.etags = False  # so that the .part starts over
    run(release, tmp_path, progress=told)
    missing = {n: size for n, size in sizes.items() if (n, size, "fetched") in told.files}
    assert told.begun[-1] == ("fetching", sum(missing.values()), 100_000)
    assert told.bytes == sum(missing.values())
    assert {name: size for name, size, _ in told.files} == sizes
    told = Told()
    run(release, tmp_path, progress=told)
    assert told.begun[0] == ("checking", sum(sizes.values()), 0)
    assert told.ended[1] == sum(sizes.values())
    assert {how for *_, how in told.files} == {"verified"}


def test_ctrl_c_keeps_the_part(release, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(release, tmp_path, progress=Told(until=200_000))
    kept = (tmp_path / f"{BIG}.part").stat().st_size
    assert 100_000 < kept < SIZE
    run(release, tmp_path)
    assert release.gets(BIG)[-1] == f"bytes={kept}-"
    check(release, tmp_path)


def test_redirects_to_another_host_are_followed(release, serve, tmp_path):
    leave_part(release, tmp_path)
    front = serve()
    front.redirect = release.url
    run(front, tmp_path)
    assert release.gets(BIG)[-1] == "bytes=100000-"  # before it, HEAD: urllib of Python 3.11 follows it as GET
    check(release, tmp_path)


def test_a_server_that_is_not_there_is_said_at_once(tmp_path, waits, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and nobody listens
        for host in (f"127.0.0.1:{unused.getsockname()[1]}", "host.invalid", "a" * 70):
            with pytest.raises(InputError, match=rf"http://{host}/.*no answer .*network") as caught:
                module.fetch("igpt-s", tmp_path, base_url=f"http://{host}/")
            assert "\n" not in str(caught.value)
    assert waits == []
