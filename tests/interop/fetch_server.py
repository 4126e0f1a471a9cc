"""A server on this machine that can fail in the ways that servers and networks do, and `igpt fetch` from it."""

import hashlib
import socket
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from igpt_jax.config import InputError
from igpt_jax.interop import fetch as module

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
