"""Downloads the weights that OpenAI released. Each file is there complete or not at all."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from igpt_jax.data.sources.tokens import SPLITS
from igpt_jax.errors import InputError, first_line
from igpt_jax.files import local_path, replace_file
from igpt_jax.weights import PALETTE

try:
    import pooch
    import requests
    import urllib3
except ImportError as error:
    needs = f"igpt fetch needs pooch and requests ({first_line(error)})"
    raise InputError(f"{needs}; pip install 'igpt_jax[openai]'") from None

BASE_URL = "https://openaipublic.blob.core.windows.net/image-gpt/"
SHARDS = {"igpt-s": 32, "igpt-m": 32, "igpt-l": 64}
DATASETS = ("imagenet", "cifar10")
STEPS, LAST_STEP = "131000, 262000, 524000, 1000000", 1_000_000
PALETTE_SHA256 = "c614a3d27f02fd6cf02fbbaf9f02e2431fa202726f3e44750658a85eb226bebd"
RECORD = "SHA256SUMS"

TIMEOUT_S = 30.0
WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Pauses before a file is tried again."""


def fetch(
    model: str,
    directory: str | Path,
    *,
    bert: bool = False,
    step: int = LAST_STEP,
    base_url: str = BASE_URL,
    report: Callable[[str], None] = lambda line: None,
    make_bar: Callable[[str], Any] = lambda name: None,
) -> Path:
    """Downloads a checkpoint and the colour palette: the files that `download.py` of the release downloads.

    Files that are there are verified and not downloaded again. The release publishes no digests of the weights, so each
    file's SHA-256 is recorded in SHA256SUMS when it first arrives and compared on every later call.

    Args:
      model: igpt-s, igpt-m or igpt-l.
      directory: for all files; it may hold other steps of the same model.
      bert: the model trained to predict masked pixels instead of the autoregressive one.
      step: of training, see `STEPS`.
      base_url: a mirror with the same folders.
      report: is called with one line for each file that is verified or downloaded, and before each pause.
      make_bar: file name -> a progress bar for `pooch.HTTPDownloader`, or None.

    Returns:
      The checkpoint's prefix, directory/model.ckpt-STEP.

    Raises:
      InputError: the server does not answer or does not have this checkpoint; a file has the wrong size or digest; the
        directory holds another model, is an address or cannot be written; or another process downloads to it.
    """
    if model not in SHARDS:
        raise InputError(f"model {model!r}: choose one of {', '.join(SHARDS)}")
    directory = local_path(directory, "--out")
    variant, prefix = model + "-bert" * bert, f"model.ckpt-{step}"
    endings = ["index", "meta", *(f"data-{i:05d}-of-{SHARDS[model]:05d}" for i in range(SHARDS[model]))]
    paths = {f"{prefix}.{ending}": f"checkpoints/{variant}/{step}/{prefix}.{ending}" for ending in endings}
    missing = f"try another --step ({STEPS})"
    _download_all(directory, paths, variant, base_url, missing, report, make_bar)
    return directory / prefix


def fetch_dataset(
    name: str,
    directory: str | Path,
    *,
    splits: Sequence[str] = tuple(SPLITS),
    base_url: str = BASE_URL,
    report: Callable[[str], None] = lambda line: None,
    make_bar: Callable[[str], Any] = lambda name: None,
) -> Path:
    """Downloads tokenised images of the release, their labels and the palette, as `fetch` does.

    Args:
      name: imagenet or cifar10, 32 x 32 pixels, centre crops.
      splits: some of `SPLITS`.

    Returns:
      PREFIX for `data.source tokens:PREFIX`.

    Raises:
      InputError: as for `fetch`, or there is no such set or split.
    """
    if name not in DATASETS:
        raise InputError(f"--dataset {name}: choose one of {', '.join(DATASETS)}")
    if unknown := [split for split in splits if split not in SPLITS] or not splits:
        raise InputError(f"--splits {unknown}: choose among {', '.join(SPLITS)}")
    directory = local_path(directory, "--out")
    files = [f"{name}_{SPLITS[split]}{part}.npy" for split in splits for part in "XY"]
    paths = {file: f"datasets/{file}" for file in files}
    _download_all(directory, paths, name, base_url, "is the address right?", report, make_bar)
    return directory / name


def _download_all(
    directory: Path,
    paths: Mapping[str, str],
    owner: str,
    base_url: str,
    missing: str,
    report: Callable[[str], None],
    make_bar: Callable[[str], Any],
) -> None:
    """The palette, and files by name with their paths on the server."""
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"base URL {base_url!r}: is no http or https address; the default is {BASE_URL}")
    base_url = base_url.rstrip("/")
    urls = {PALETTE: f"{base_url}/color-clusters/{PALETTE}"}  # first, because its digest is known
    urls |= {name: f"{base_url}/{path}" for name, path in paths.items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock", timeout=0):
            _Download(directory, urls, _Record(directory / RECORD, owner), missing, report, make_bar).run()
    except Timeout:
        raise InputError(f"{directory}: another process downloads to it; wait, or name another directory") from None
    except OSError as error:
        what = f"{error.filename or directory}: {error.strerror or error}"
        raise InputError(f"{what}; make room or name another directory; complete files are kept") from None


@dataclass
class _Download:
    """One call of `fetch`, in a directory that this process has locked."""

    directory: Path
    urls: dict[str, str]
    record: _Record
    missing: str
    """The way out where a file is not on the server."""
    report: Callable[[str], None]
    make_bar: Callable[[str], Any]
    connected: bool = False

    def run(self) -> None:
        for name in self.urls:
            for leftover in self.directory.glob(f".{name}.*.tmp"):  # of a process that was killed
                leftover.unlink()
            done = self._verify(name) if (self.directory / name).exists() else self._retry(name, self._download)
            self.report(f"{name}  {(self.directory / name).stat().st_size / 1e6:.1f} MB  {done}")

    def _verify(self, name: str) -> str:
        path, remedy = self.directory / name, "delete it and run the same command again"
        recorded = name in self.record.digests or name == PALETTE
        if not recorded and (size := self._retry(name, self._remote_size)) != path.stat().st_size:
            raise InputError(f"{path}: has {path.stat().st_size} bytes, but {size} on the server; {remedy}")
        self.record.check(name, pooch.file_hash(str(path)), str(path), remedy)
        return "verified" if recorded else "recorded"

    def _download(self, name: str) -> str:
        with replace_file(self.directory / name) as file, contextlib.ExitStack() as stack:
            # pooch leaves the response of a failed request open
            hooks = {"response": lambda response, **_: stack.enter_context(response)}
            options: dict[str, Any] = {"chunk_size": 1 << 18, "timeout": TIMEOUT_S, "hooks": hooks}
            pooch.HTTPDownloader(self.make_bar(name), **options)(self.urls[name], file, None)
            remedy = "it was not kept; try the same command again, or another address or directory"
            self.record.check(name, pooch.file_hash(file.name), self.urls[name], remedy)
        return "downloaded"

    def _remote_size(self, name: str) -> int:
        response = requests.head(self.urls[name], allow_redirects=True, timeout=TIMEOUT_S)
        response.raise_for_status()
        return int(response.headers.get("Content-Length", -1))

    def _retry(self, name: str, request: Callable[[str], Any]) -> Any:
        """request(name), again after a pause where that may help; InputError where it does not."""
        url, waits = self.urls[name], list(WAITS_S)
        while True:
            try:
                answer = request(name)
                self.connected = True
                return answer
            except requests.HTTPError as error:
                status = getattr(error.response, "status_code", 0)
                if status == 404 and name != PALETTE:
                    raise InputError(f"{url}: is not on the server; {self.missing}") from None
                why, transient = f"the server answers {status}", status >= 500 or status in (408, 429)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                why = f"no complete answer ({_root_cause(error)})"
                # before any answer, the computer is offline or the address wrong: a pause does not help
                transient = self.connected or isinstance(error, requests.exceptions.ChunkedEncodingError)
            if not transient or not waits:
                raise InputError(f"{url}: {why}; check network and address; the same command continues")
            self.report(f"{name}: {why}; next try in {waits[0]:g} s")
            time.sleep(waits.pop(0))


class _Record:
    """SHA256SUMS, as `sha256sum -c` reads it. A comment names the model: files of all models have the same names."""

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
                raise InputError(f"{path}: line {number} is not a line of sha256sum; delete that line")

    def check(self, name: str, digest: str, origin: str, remedy: str) -> None:
        """Compares a file's digest with the known one, or records it; InputError where they differ."""
        if name == PALETTE and digest != PALETTE_SHA256:
            raise InputError(f"{origin}: is not the palette of the release; {remedy}")
        if self.digests.get(name, digest) != digest:
            raise InputError(f"{origin}: does not have the digest in {RECORD}; {remedy}")
        if name not in self.digests:
            self.digests[name] = digest
            self.text += "\n" * (not self.text.endswith("\n")) + f"{digest}  {name}\n"
            with replace_file(self.path) as file:
                file.write(self.text.encode("utf-8", "surrogateescape"))


def _root_cause(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return first_line(error, 150)
