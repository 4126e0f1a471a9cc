"""The weights that OpenAI released, fetched so that an interrupted download loses nothing."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit

from igpt_jax.config import InputError
from igpt_jax.palette import replace_file

T = TypeVar("T")
Answer = HTTPResponse | HTTPError

BASE_URL = "https://openaipublic.blob.core.windows.net/image-gpt/"
SHARDS = {"igpt-s": 32, "igpt-m": 32, "igpt-l": 64}
STEPS = (131_000, 262_000, 524_000, 1_000_000)
PALETTE = "kmeans_centers.npy"
PALETTE_SHA256 = "c614a3d27f02fd6cf02fbbaf9f02e2431fa202726f3e44750658a85eb226bebd"
RECORD = "SHA256SUMS"

TIMEOUT = 30.0
BACKOFF = (1.0, 2.0, 4.0, 8.0)  # seconds before each new try that follows a failure without progress
RECEIVE = 1 << 16  # what one lost connection can cost
CHUNK = 1 << 20


class Progress:
    """What `fetch` tells while it works; this one keeps it to itself."""

    def begin(self, work: str, total: int | None, done: int = 0) -> None:
        """The next part of the work, in bytes; `total` is None where the server does not say."""

    def moved(self, size: int) -> None:
        """So many bytes more; fewer, where a file starts over."""

    def finished(self, name: str, size: int, how: str) -> None:
        """That file is there, whole."""

    def waiting(self, name: str, why: str, seconds: float) -> None:
        """Something went wrong; the next try begins after so many seconds."""


def fetch(
    model: str,
    directory: Path,
    *,
    bert: bool = False,
    step: int = 1_000_000,
    base_url: str = BASE_URL,
    progress: Progress | None = None,
) -> Path:
    """Downloads a checkpoint and the colour palette, as `download.py` of the release does.

    A file being downloaded is NAME.part, and the next call continues it. The release publishes no digests, so each is
    recorded in SHA256SUMS when its file first arrives, and every later call verifies the files that are there.

    Args:
      model: igpt-s, igpt-m or igpt-l.
      directory: where all files go, flat; it may hold other steps of the same model.
      bert: the model trained to fill in masked pixels, instead of the autoregressive one.
      step: of training; released are those in `STEPS`.
      base_url: a mirror with the same folders.
      progress: is told how it goes.

    Returns:
      The checkpoint's prefix, directory/model.ckpt-STEP.

    Raises:
      InputError: the server cannot be reached, lacks this checkpoint or breaks off too often; a file has not the size,
        digest or model that it should have; the directory cannot be written, or another process fetches there.
    """
    if model not in SHARDS:
        raise InputError(f"model {model!r}: there are {', '.join(SHARDS)}")
    base_url = _checked(base_url)
    variant = model + ("-bert" if bert else "")
    prefix, n = f"model.ckpt-{step}", SHARDS[model]
    endings = ["index", "meta", *(f"data-{i:05d}-of-{n:05d}" for i in range(n))]
    urls = {PALETTE: f"{base_url}/color-clusters/{PALETTE}"}  # first: it is small, and known to the byte
    urls |= {f"{prefix}.{end}": f"{base_url}/checkpoints/{variant}/{step}/{prefix}.{end}" for end in endings}
    try:
        with _claim(directory):
            _Download(directory, variant, urls, progress or Progress()).run()
    except OSError as error:
        what = f"{error.filename or directory}: {error.strerror or error}"
        raise InputError(f"{what}; make room or name another directory; what has arrived is kept") from None
    return directory / prefix


def _checked(base_url: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(base_url)
        if (
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and re.fullmatch("[!-~]+", base_url)
        ):
            return base_url.rstrip("/")
    raise InputError(f"base URL {base_url!r}: not an http or https address; by default it is {BASE_URL}")


@contextlib.contextmanager
def _claim(directory: Path) -> Iterator[None]:
    """Makes the directory, and keeps other processes out of it meanwhile."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{directory}: another process fetches there now; wait, or name another") from None
        yield


class _LostError(Exception):
    """A try failed that may do better when repeated. `received` is how much of the file is there."""

    def __init__(self, why: str, received: int = 0) -> None:
        super().__init__(why)
        self.received = received


class _Remote(NamedTuple):
    """What the server says of a file before it is fetched."""

    size: int | None
    validator: str


class _Download:
    """One call of `fetch`, with the directory to itself."""

    def __init__(self, directory: Path, variant: str, urls: dict[str, str], progress: Progress) -> None:
        self.directory, self.urls, self.progress = directory, urls, progress
        self.record = _Record(directory / RECORD, variant)
        self.reached = False

    def run(self) -> None:
        present = {name: path.stat().st_size for name in self.urls if (path := self.directory / name).exists()}
        missing = [name for name in self.urls if name not in present]
        self.progress.begin("checking", sum(present.values()))
        for name, size in present.items():
            self._verify(name, size)
        self.progress.begin("asking for sizes", None)
        remotes = {name: self._keep_trying(name, self._ask) for name in missing}
        sizes = [remote.size for remote in remotes.values()]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        self.progress.begin("fetching", total, sum(_size(self.directory / f"{name}.part") for name in missing))
        for name, remote in remotes.items():
            self._take_in(name, self._keep_trying(name, partial(self._receive, remote)))

    def _verify(self, name: str, size: int) -> None:
        """Raises InputError when a file that is there is not the one wanted; records it when it is new."""
        path, known = self.directory / name, self.record.known(name)
        remedy = "delete it and run the same command again"
        if not known and (there := self._keep_trying(name, self._ask).size) != size:
            theirs = "does not say its size" if there is None else f"has {there}"
            raise InputError(f"{path}: has {size} bytes and the server {theirs}; {remedy}")
        digest = _sha256(path, self.progress.moved).hexdigest()
        for source, wanted in known:
            if digest != wanted:
                raise InputError(f"{path}: its content does not agree with {source}; {remedy}")
        self.record.add(name, digest)
        self.progress.finished(name, size, "verified" if known else "recorded")

    def _take_in(self, name: str, digest: str) -> None:
        """A received file gets its name, if it is the one wanted."""
        part, url = self.directory / f"{name}.part", self.urls[name]
        for source, wanted in self.record.known(name):
            if digest != wanted:
                part.unlink()  # else every later call would continue what cannot become right
                remedy = "try the same command again, or another address or directory"
                raise InputError(f"{name}: what {url} sent does not agree with {source} and was not kept; {remedy}")
        # recorded first: killed in between, the next call finds a whole .part and no file without a record
        self.record.add(name, digest)
        size = _size(part)
        os.replace(part, self.directory / name)
        (self.directory / f"{name}.part.etag").unlink(missing_ok=True)
        self.progress.finished(name, size, "fetched")

    def _keep_trying(self, name: str, attempt: Callable[[str], T]) -> T:
        url, failures, furthest = self.urls[name], 0, 0
        while True:
            try:
                return attempt(name)
            except _LostError as lost:
                if not self.reached:  # most likely offline or a mistyped address, which waiting does not mend
                    raise InputError(f"{url}: no answer ({lost}); check the network and the address") from None
                if lost.received > furthest:
                    failures, furthest = 0, lost.received
                if failures == len(BACKOFF):
                    raise InputError(f"{name}: {lost}, from {url}; the same command continues") from None
                self.progress.waiting(name, str(lost), BACKOFF[failures])
                time.sleep(BACKOFF[failures])
                failures += 1

    def _open(self, name: str, method: str, headers: dict[str, str]) -> Answer:
        """The server's answer; raises _LostError where there is none, or one that may change (5xx, 408, 429)."""
        try:
            request = urllib.request.Request(self.urls[name], headers=headers, method=method)
            response = urllib.request.urlopen(request, timeout=TIMEOUT)
        except HTTPError as error:
            response = error
        except (OSError, HTTPException, UnicodeError) as error:  # the last for a host name that cannot be one
            raise _LostError(_reason(error)) from None
        self.reached = True
        status = response.status or 0  # a redirect to ftp has none
        if (status >= 500 and status != 501) or status in (408, 429):
            response.close()
            raise _LostError(f"the server answers {status}")
        return response

    def _ask(self, name: str) -> _Remote:
        with self._open(name, "HEAD", {}) as response:
            if response.status in (405, 501):  # it knows no HEAD
                return _Remote(None, "")
            if response.status != 200:
                raise self._refusal(name, response.status)
            return _Remote(_total(response), _validator(response))

    def _refusal(self, name: str, status: int | None) -> InputError:
        if status != 404 or name == PALETTE:
            return InputError(f"{self.urls[name]}: the server answers {status}; check the address, or try again later")
        what = f"this checkpoint is not on the server; try another --step ({', '.join(map(str, STEPS))})"
        return InputError(f"{self.urls[name]}: {what}")

    def _receive(self, remote: _Remote, name: str) -> str:
        """One try at a file: continues its .part, and returns the sha256 of the whole."""
        part, tag = self.directory / f"{name}.part", self.directory / f"{name}.part.etag"
        version = tag.read_text(errors="replace") if tag.exists() else ""  # of which the .part is
        offset = _size(part) if version and version == remote.validator else 0
        if offset and offset == remote.size:
            return _sha256(part).hexdigest()
        # If-Range: a server that has another version by now sends the whole of it
        headers = {"Range": f"bytes={offset}-", "If-Range": version} if offset else {}
        with self._open(name, "GET", headers) as response:
            total = _total(response)
            if offset and response.status == 416 and remote.size is None and total == offset:
                return _sha256(part).hexdigest()
            starts = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
            continues = response.status == 206 and starts and _validator(response) in ("", version)
            if offset and not continues and response.status in (206, 416):
                tag.unlink()
                return self._receive(remote, name)
            if response.status == 200:
                self.progress.moved(-_size(part))
                part.write_bytes(b"")  # before the tag, which so never stands beside bytes of another version
                tag.write_text(_validator(response))
                offset = 0
            elif not (offset and continues):
                raise self._refusal(name, response.status)
            if None not in (total, remote.size) and total != remote.size:
                sizes = f"has {total} bytes now and had {remote.size} before"
                raise InputError(f"{self.urls[name]}: {sizes}; the same command starts over with it")
            digest, size = _sha256(part), offset
            with open(part, "ab") as file:
                while piece := _receive_piece(response, size):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    self.progress.moved(len(piece))
                file.flush()
                os.fsync(file.fileno())
        total = remote.size if total is None else total
        if total is not None and size != total:
            raise _LostError(f"the connection ended at {size} of {total} bytes", size)
        return digest.hexdigest()


class _Record:
    """SHA256SUMS, as `sha256sum -c` reads it. A comment names the model, since all models' files are named alike."""

    def __init__(self, path: Path, variant: str) -> None:
        self.path, self.text, self.digests = path, f"# {variant}\n", dict[str, str]()
        if path.exists():
            self.text = path.read_text(encoding="utf-8", errors="surrogateescape")
        for number, line in enumerate(self.text.splitlines(), 1):
            owner = re.fullmatch(r"# (igpt-\S+)", line)
            if owner and owner[1] != variant:
                raise InputError(f"{path.parent}: holds {owner[1]}; name another directory for {variant}")
            if entry := re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line):
                self.digests[entry[2]] = entry[1].lower()
            elif line.strip() and not line.startswith("#"):
                raise InputError(f"{path}: line {number} is no line of sha256sum; delete that line")

    def known(self, name: str) -> list[tuple[str, str]]:
        """Who knows the file's sha256, and what it must be."""
        wanted = {"the release": PALETTE_SHA256 if name == PALETTE else None, RECORD: self.digests.get(name)}
        return [(source, digest) for source, digest in wanted.items() if digest]

    def add(self, name: str, digest: str) -> None:
        if name in self.digests:
            return
        self.digests[name] = digest
        self.text += "\n" * (not self.text.endswith("\n")) + f"{digest}  {name}\n"
        with replace_file(self.path) as file:
            file.write(self.text.encode("utf-8", "surrogateescape"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path, moved: Callable[[int], None] = lambda size: None) -> hashlib._Hash:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            moved(len(chunk))
    return digest


def _receive_piece(response: Answer, received: int) -> bytes:
    try:
        return response.read(RECEIVE)
    except (OSError, HTTPException) as error:
        raise _LostError(_reason(error), received) from None


def _total(response: Answer) -> int | None:
    """Size of the whole file, where the answer says it."""
    if response.status in (206, 416):
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = "" if "Transfer-Encoding" in response.headers else response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch("[0-9]+", text) else None


def _validator(response: Answer) -> str:
    """What tells one version of a file from another, or nothing."""
    text = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return text if text.isascii() and text.isprintable() else ""


def _reason(error: Exception) -> str:
    """One short line."""
    reason = getattr(error, "reason", error)
    return " ".join((getattr(reason, "strerror", None) or str(reason) or type(reason).__name__).split())[:200]
