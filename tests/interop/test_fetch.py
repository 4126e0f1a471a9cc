"""igpt fetch against a server on this machine that can fail in the ways that servers and networks do."""

import fcntl
import hashlib
import importlib
import io
import re
import resource
import shutil
import socket
import struct
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from igpt_jax.cli.fetch import fetch_command
from igpt_jax.config import InputError

module = importlib.import_module("igpt_jax.interop.fetch")

INDEX, BIG = "model.ckpt-1000000.index", "model.ckpt-1000000.data-00001-of-00003"
NAMES = [INDEX, "model.ckpt-1000000.meta", *(f"model.ckpt-1000000.data-0000{i}-of-00003" for i in range(3))]
PALETTE = "kmeans_centers.npy"
SIZE = 300_000  # of BIG: several pieces


class Server(ThreadingHTTPServer):
    """Files by path, and switches for what goes wrong with the file of a name."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.log: list[tuple[str, str, str | None]] = []  # method, name, Range
        self.sent: dict[str, int] = {}
        self.cut: dict[str, list[int]] = {}  # bytes of each answer before the connection ends
        self.reset = False  # a cut is a reset, not a plain end
        self.status: dict[str, list[int]] = {}  # answered in turn before anything else
        self.claims: dict[str, int] = {}  # Content-Length that is not true
        self.head_etag: dict[str, str] = {}
        self.ranges = self.if_range = self.etags = self.lengths = self.heads = True
        self.redirect = ""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/image-gpt/"

    def gets(self, name):
        return [wanted for method, asked, wanted in self.log if (method, asked) == ("GET", name)]

    def handle_error(self, request, client_address):
        pass  # clients that hang up


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def do_GET(self):
        server, name, head = self.server, self.path.rpartition("/")[2], self.command == "HEAD"
        wanted = self.headers["Range"]
        server.log.append((self.command, name, wanted))
        if server.redirect:
            return self.answer(302, Location=server.redirect + self.path.removeprefix("/image-gpt/"))
        if server.status.get(name):
            return self.answer(server.status[name].pop(0), Content_Length=0)
        if head and not server.heads:
            return self.answer(405, Content_Length=0)
        body = server.files.get(self.path)
        if body is None:
            return self.answer(404, Content_Length=0)
        etag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        headers = {"ETag": server.head_etag.get(name, etag) if head else etag} if server.etags else {}
        start, status = 0, 200
        if wanted and server.ranges and not (server.if_range and self.headers["If-Range"] not in (None, etag)):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(body):
                return self.answer(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if server.lengths:
            headers["Content-Length"] = server.claims.get(name, len(body)) - start
        self.answer(status, **headers)
        if not head:
            cut = server.cut.get(name) or [len(body)]
            body = body[start : start + (cut.pop(0) if len(cut) > 1 else cut[0])]
            self.wfile.write(body)
            server.sent[name] = server.sent.get(name, 0) + len(body)
            if server.reset:  # closing sends RST
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture
def serve():
    """Starts servers."""
    running = []

    def start():
        server = Server()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were to be waited; nobody waits."""
    seconds = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.fixture
def release(serve, waits, rng, monkeypatch):
    """A server with a checkpoint of three small shards and a palette of its own."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setitem(module.SHARDS, "igpt-s", 3)
    server = serve()
    palette = io.BytesIO()
    np.save(palette, rng.uniform(-1, 1, (512, 3)).astype(np.float32))
    monkeypatch.setattr(module, "PALETTE_SHA256", hashlib.sha256(palette.getvalue()).hexdigest())
    server.files[f"/image-gpt/color-clusters/{PALETTE}"] = palette.getvalue()
    for name in NAMES:
        server.files[path_of(name)] = rng.bytes(SIZE if name == BIG else 1000 + len(server.files))
    return server


def path_of(name, variant="igpt-s", step=1_000_000):
    return f"/image-gpt/checkpoints/{variant}/{step}/{name}"


def run(server, directory, **options):
    return module.fetch("igpt-s", directory, base_url=server.url, **options)


def refused(server, directory, **options):
    """The one line."""
    with pytest.raises(InputError) as caught:
        run(server, directory, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check(server, directory, names=NAMES):
    """All files are there, as served and as recorded, and nothing is left over."""
    served = {path.rpartition("/")[2]: body for path, body in server.files.items()}
    for name in (PALETTE, *names):
        assert (directory / name).read_bytes() == served[name], name
    assert {p.name for p in directory.iterdir()} == {PALETTE, *names, "SHA256SUMS", ".lock"}
    lines = [line for line in (directory / "SHA256SUMS").read_text().splitlines() if not line.startswith("#")]
    assert sorted(lines) == sorted(f"{hashlib.sha256(served[name]).hexdigest()}  {name}" for name in (PALETTE, *names))


def leave_part(server, directory, size=100_000, name=BIG):
    """As an earlier call left it: everything before that file, and `size` bytes of it."""
    server.cut[name] = [size, 0]
    assert "the same command continues" in refused(server, directory)
    assert (directory / f"{name}.part").stat().st_size == min(size, len(server.files[path_of(name)]))
    server.cut.clear()
    server.log.clear()
    server.sent.clear()


def test_all_files_arrive_and_are_recorded(release, tmp_path):
    assert run(release, tmp_path / "new" / "s") == tmp_path / "new" / "s" / "model.ckpt-1000000"
    check(release, tmp_path / "new" / "s")


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no coreutils")
def test_the_record_is_what_sha256sum_reads(release, tmp_path):
    run(release, tmp_path)
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told.count(": OK\n") == 1 + len(NAMES)
    (tmp_path / BIG).write_bytes(b"other")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1


def test_the_addresses_are_those_of_the_release(release, tmp_path, monkeypatch):
    """Paths for the other sizes, --bert and --step, in full: 32 shards for s and m, 64 for l."""
    monkeypatch.undo()
    monkeypatch.setattr(module._Download, "run", lambda self: asked.update(self.urls))
    for model, n in (("igpt-s", 32), ("igpt-m", 32), ("igpt-l", 64)):
        asked: dict[str, str] = {}
        module.fetch(model, tmp_path / model, bert=True, step=131_000)
        base = "https://openaipublic.blob.core.windows.net/image-gpt"
        ends = ["index", "meta", *(f"data-{i:05d}-of-{n:05d}" for i in range(n))]
        wanted = {
            f"model.ckpt-131000.{e}": f"{base}/checkpoints/{model}-bert/131000/model.ckpt-131000.{e}" for e in ends
        }
        assert asked == {PALETTE: f"{base}/color-clusters/{PALETTE}"} | wanted


def test_what_is_there_is_not_fetched_again(release, tmp_path):
    run(release, tmp_path)
    release.log.clear()
    assert run(release, tmp_path) == tmp_path / "model.ckpt-1000000"
    assert release.log == []
    (tmp_path / INDEX).unlink()
    run(release, tmp_path)
    assert {name for _, name, _ in release.log} == {INDEX}
    check(release, tmp_path)


def test_a_file_that_changed_here_is_named_and_left_alone(release, tmp_path):
    run(release, tmp_path)
    damaged = bytearray((tmp_path / BIG).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / BIG).write_bytes(damaged)
    message = refused(release, tmp_path)
    assert str(tmp_path / BIG) in message
    assert "delete it" in message
    assert (tmp_path / BIG).read_bytes() == damaged
    (tmp_path / BIG).unlink()
    run(release, tmp_path)
    check(release, tmp_path)


def test_a_file_that_changed_there_is_not_taken_for_the_recorded_one(release, tmp_path):
    run(release, tmp_path)
    (tmp_path / BIG).unlink()
    old, release.files[path_of(BIG)] = release.files[path_of(BIG)], bytes(SIZE)
    assert "SHA256SUMS" in refused(release, tmp_path)
    assert not (tmp_path / BIG).exists()
    release.files[path_of(BIG)] = old
    run(release, tmp_path)
    check(release, tmp_path)


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


def test_a_file_that_the_user_brought(release, tmp_path):
    (tmp_path / BIG).write_bytes(release.files[path_of(BIG)])
    run(release, tmp_path)
    assert release.gets(BIG) == []
    check(release, tmp_path)


@pytest.mark.parametrize("lengths", [True, False])
def test_a_file_of_the_user_that_is_not_it(release, tmp_path, lengths):
    release.lengths = lengths
    (tmp_path / INDEX).write_bytes(b"mine")
    message = refused(release, tmp_path)
    assert str(tmp_path / INDEX) in message
    assert "delete it" in message
    assert (tmp_path / INDEX).read_bytes() == b"mine"
    assert not (tmp_path / "SHA256SUMS").exists()


def test_a_wrong_palette_is_refused(release, tmp_path, rng):
    path = f"/image-gpt/color-clusters/{PALETTE}"
    good, release.files[path] = release.files[path], rng.bytes(6272)
    message = refused(release, tmp_path)
    assert PALETTE in message
    assert "the release" in message
    assert {p.name for p in tmp_path.iterdir()} <= {".lock", f"{PALETTE}.part.etag"}
    (tmp_path / PALETTE).write_bytes(release.files[path])
    assert f"{tmp_path / PALETTE}: its content does not agree with the release" in refused(release, tmp_path)
    (tmp_path / PALETTE).unlink()
    release.files[path] = good
    run(release, tmp_path)
    check(release, tmp_path)


def test_the_pinned_palette_is_that_of_the_release():
    assert module.PALETTE_SHA256 == "c614a3d27f02fd6cf02fbbaf9f02e2431fa202726f3e44750658a85eb226bebd"


def test_another_step_joins_and_another_model_does_not(release, tmp_path, rng, monkeypatch):
    run(release, tmp_path)
    release.log.clear()
    new = [name.replace("1000000", "131000") for name in NAMES]
    release.files |= {path_of(name, step=131_000): rng.bytes(50) for name in new}
    assert run(release, tmp_path, step=131_000) == tmp_path / "model.ckpt-131000"
    assert {name for _, name, _ in release.log} == set(new)
    check(release, tmp_path, NAMES + new)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    message = refused(release, tmp_path, bert=True)  # its files have the same names
    assert "holds igpt-s; name another directory for igpt-s-bert" in message
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_record_keeps_what_others_wrote(release, tmp_path):
    other = "# mine\n" + "A" * 64 + " *other.bin"
    (tmp_path / "SHA256SUMS").write_text(other)
    run(release, tmp_path)
    text = (tmp_path / "SHA256SUMS").read_text()
    assert text.startswith(other + "\n")
    (tmp_path / "SHA256SUMS").write_text(text + "torn lin")
    assert "line 9" in refused(release, tmp_path)


def test_two_calls_do_not_share_a_directory(release, tmp_path):
    with open(tmp_path / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # which only an exclusive lock cannot stand
        message = refused(release, tmp_path)
        assert str(tmp_path) in message
        assert "another process" in message
        assert release.log == []
    run(release, tmp_path)
    check(release, tmp_path)


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


def test_a_directory_that_cannot_be_one(release, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(tmp_path / "file") in refused(release, path)


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


@pytest.mark.parametrize(
    "url",
    [
        "openai.com",
        "file:///etc/",
        "ftp://a/",
        "http://",
        "http://[::1",
        "http://a:b/",
        "http://a:99999/",
        "http://ä/",
        "http://a b/",
    ],
)
def test_addresses_that_are_none(tmp_path, url):
    with pytest.raises(InputError, match=f"base URL '{re.escape(url)}'"):
        module.fetch("igpt-s", tmp_path / "new", base_url=url)
    assert not (tmp_path / "new").exists()


def test_a_server_that_is_not_there_is_said_at_once(tmp_path, waits, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and nobody listens
        for host in (f"127.0.0.1:{unused.getsockname()[1]}", "host.invalid", "a" * 70):
            with pytest.raises(InputError, match=rf"http://{host}/.*no answer .*network") as caught:
                module.fetch("igpt-s", tmp_path, base_url=f"http://{host}/")
            assert "\n" not in str(caught.value)
    assert waits == []


def test_the_command_prints_the_prefix_and_nothing_else(release, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    release.status[INDEX] = [500]
    fetch_command(["igpt-s", "--base-url", release.url])
    shown = capsys.readouterr()
    assert shown.out == "weights/igpt-s/model.ckpt-1000000\n"
    assert "github.com/openai/image-gpt" in shown.err
    for name in (PALETTE, *NAMES):
        assert len(re.findall(rf"^{name} .*fetched$", shown.err, re.MULTILINE)) == 1
    check(release, tmp_path / "weights" / "igpt-s")
    release.files = {path.replace("igpt-s/", "igpt-s-bert/"): body for path, body in release.files.items()}
    fetch_command(["igpt-s", "--bert", "--base-url", release.url])
    assert capsys.readouterr().out == "weights/igpt-s-bert/model.ckpt-1000000\n"
    fetch_command(["igpt-s", "--bert", "--out", "x", "--step", "1000000", "--base-url", release.url])
    check(release, tmp_path / "x")


def test_models_that_are_none(tmp_path, capsys):
    with pytest.raises(InputError, match="igpt-xl") as caught:
        fetch_command(["igpt-xl", "--out", str(tmp_path / "new")])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="there are igpt-s, igpt-m, igpt-l"):
        module.fetch("xl", tmp_path / "new")
    assert not (tmp_path / "new").exists()
