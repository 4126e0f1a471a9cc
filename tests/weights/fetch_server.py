"""A server on this machine that fails in the ways that servers and networks do, and `igpt fetch` from it."""

import hashlib
import socket
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from igpt_jax.weights import fetch as module

INDEX, BIG = "model.ckpt-1000000.index", "model.ckpt-1000000.data-00001-of-00003"
NAMES = [INDEX, "model.ckpt-1000000.meta", *(f"model.ckpt-1000000.data-0000{i}-of-00003" for i in range(3))]
PALETTE = "kmeans_centers.npy"
SIZE = 600_000  # bytes of BIG: several chunks


class Server(ThreadingHTTPServer):
    """Files by path, and switches for what goes wrong with the file of a name."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []  # method, name
        self.cut: dict[str, list[int]] = {}  # bytes of each answer in turn before the connection ends
        self.reset = False  # a cut connection ends with a reset
        self.status: dict[str, list[int]] = {}  # answered in turn before anything else

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/image-gpt/"

    def gets(self, name):
        return self.log.count(("GET", name))

    def handle_error(self, request, client_address):
        pass  # clients that hang up


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def answer(self, status, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def do_GET(self):
        server, name = self.server, self.path.rpartition("/")[2]
        server.log.append((self.command, name))
        body = server.files.get(self.path)
        if server.status.get(name):
            return self.answer(server.status[name].pop(0), Content_Length=0)
        if body is None:
            return self.answer(404, Content_Length=0)
        self.answer(200, Content_Length=len(body))
        cut = server.cut[name].pop(0) if server.cut.get(name) else None
        self.wfile.write(body[:cut])
        if cut is not None and server.reset:  # closing sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def path_of(name, variant="igpt-s", step=1_000_000):
    return f"/image-gpt/checkpoints/{variant}/{step}/{name}"


def run(server, directory, bert=False, step=1_000_000, **options):
    return module.fetch(module.weight_files("igpt-s", bert, step), directory, server.url, **options)


def check(server, directory, names=NAMES):
    """All files are there, as served and as recorded, and nothing is left over."""
    served = {path.rpartition("/")[2]: body for path, body in server.files.items()}
    for name in (PALETTE, *names):
        assert (directory / name).read_bytes() == served[name], name
    assert {p.name for p in directory.iterdir()} - {".lock"} == {PALETTE, *names, "SHA256SUMS"}
    lines = [line for line in (directory / "SHA256SUMS").read_text().splitlines() if not line.startswith("#")]
    assert sorted(lines) == sorted(f"{hashlib.sha256(served[name]).hexdigest()}  {name}" for name in names)
