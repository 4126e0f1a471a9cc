"""Downloads the weights that OpenAI released. Each file is there complete or not at all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

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
STEPS, LAST_STEP = "131000, 262000, 524000, 1000000", 1_000_000
PALETTE_SHA256 = "c614a3d27f02fd6cf02fbbaf9f02e2431fa202726f3e44750658a85eb226bebd"
RECORD = "SHA256SUMS"
RETRIES = 5


class Files(NamedTuple):
    """Files of the release that belong together."""

    owner: str
    """Model or dataset: the files of all models have the same names."""
    prefix: str
    paths: Mapping[str, str]
    """Name -> path on the server."""


def weight_files(model: str, bert: bool = False, step: int = LAST_STEP) -> Files:
    """A checkpoint's; `bert` is the model trained to predict masked pixels."""
    if model not in SHARDS:
        raise InputError(f"model: must be one of {', '.join(SHARDS)}; got {model!r}")
    owner, prefix = model + "-bert" * bert, f"model.ckpt-{step}"
    endings = ["index", "meta", *(f"data-{i:05d}-of-{SHARDS[model]:05d}" for i in range(SHARDS[model]))]
    return Files(owner, prefix, {f"{prefix}.{end}": f"checkpoints/{owner}/{step}/{prefix}.{end}" for end in endings})


def dataset_files(name: str, splits: Sequence[str] = tuple(SPLITS)) -> Files:
    """Those of tokenised images (32 x 32 pixels, centre crops) and their labels."""
    files = [f"{name}_{SPLITS[split]}{part}.npy" for split in splits for part in "XY"]
    return Files(name, name, {file: f"datasets/{file}" for file in files})


def fetch(
    files: Files,
    directory: str | Path,
    base_url: str = BASE_URL,
    report: Callable[[str], None] = lambda line: None,
    make_bar: Callable[[str], Any] = lambda name: None,
) -> Path:
    """Downloads files and the palette into a directory; what is there is verified. Returns the path with their prefix.

    The release publishes no digests of the weights: each file's SHA-256 is recorded in SHA256SUMS when it arrives, and
    compared from then on. `report` gets a line for each file and each failed attempt; `make_bar` makes of a file's name
    a progress bar for `pooch.HTTPDownloader`, or None.
    """
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"base URL: must be an http or https address such as {BASE_URL}; got {base_url!r}")
    directory, base_url = local_path(directory, "--out"), base_url.rstrip("/")
    urls = {PALETTE: f"{base_url}/color-clusters/{PALETTE}"}  # first, because its digest is known
    urls |= {name: f"{base_url}/{path}" for name, path in files.paths.items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock", timeout=0):
            known = _read_record(directory / RECORD, files.owner) | {PALETTE: PALETTE_SHA256}
            _fetch_all(directory, urls, known, report, make_bar)
    except Timeout:
        raise InputError(f"{directory}: another process downloads to it; wait, or name another directory") from None
    except OSError as error:
        what = f"{error.filename or directory}: {error.strerror or error}"
        raise InputError(f"{what}; make room or name another directory; complete files are kept") from None
    return directory / files.prefix


def _fetch_all(
    directory: Path,
    urls: Mapping[str, str],
    known: dict[str, str],
    report: Callable[[str], None],
    make_bar: Callable[[str], Any],
) -> None:
    registry: dict[str, Any] = {name: known.get(name) for name in urls}
    options: dict[str, Any] = {"registry": registry, "urls": urls, "retry_if_failed": RETRIES, "allow_updates": False}
    files, record = pooch.create(directory, "", **options), directory / RECORD
    pooch.get_logger().setLevel("WARNING")  # `report` says it

    def download(url: str, path: str, _: Any) -> None:
        name = url.rpartition("/")[2]
        Path(path).unlink()  # pooch made it for this user alone
        with contextlib.ExitStack() as stack:  # pooch leaves the response of a failed request open
            hooks = {"response": lambda response, **_: stack.enter_context(response)}
            try:
                pooch.HTTPDownloader(make_bar(name), 1 << 18, timeout=30.0, hooks=hooks)(url, path, None)
            except requests.HTTPError as error:
                status = getattr(error.response, "status_code", 0)
                if status in (403, 404):  # which pooch would ask again
                    raise FileNotFoundError(status) from None
                report(f"{name}: the server answers {status}")
                raise
            except requests.RequestException as error:
                report(f"{name}: no complete answer ({_root_cause(error)})")
                raise
        if name not in known:  # recorded before the file gets its name: one without a digest is never taken
            known[name], text = pooch.file_hash(path), record.read_bytes()
            with replace_file(record) as file:
                file.write(text + b"\n" * (not text.endswith(b"\n")) + f"{known[name]}  {name}\n".encode())

    for name, url in urls.items():
        path, again = directory / name, "delete it and run the same command again"
        there = path.exists()
        if there and name not in known:
            raise InputError(f"{path}: is not in {RECORD}, so it may be another file; {again}")
        try:
            files.fetch(name, downloader=cast(Any, download))
        except FileNotFoundError as error:
            way_out = f"checkpoints are those of steps {STEPS}" if "/checkpoints/" in url else "is the address right?"
            raise InputError(f"{url}: the server does not give it ({error}); {way_out}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            why = _root_cause(error)
            raise InputError(f"{url}: {why}; check network and address; the same command continues") from None
        except ValueError:  # of pooch, for another digest
            origin, way_out = (path, again) if there else (url, "it was not kept; try another address or directory")
            raise InputError(f"{origin}: does not have the SHA-256 of the release, or in {RECORD}; {way_out}") from None
        report(f"{name}  {path.stat().st_size / 1e6:.1f} MB  {'verified' if there else 'downloaded'}")


def _read_record(path: Path, owner: str) -> dict[str, str]:
    """Name -> digest in SHA256SUMS, as `sha256sum -c` reads it; a comment names the owner."""
    if not path.exists():
        with replace_file(path) as file:
            file.write(f"# {owner}\n".encode())
    text, digests = path.read_text(encoding="utf-8", errors="surrogateescape"), {}
    for number, line in enumerate(text.splitlines(), 1):
        other = re.fullmatch(r"# (igpt-\S+)", line)
        if other and other[1] != owner:
            raise InputError(f"{path.parent}: holds {other[1]}; name another directory for {owner}")
        if entry := re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line):
            digests[entry[2]] = entry[1].lower()
        elif line.strip() and not line.startswith("#"):
            raise InputError(f"{path}: line {number} is not a line of sha256sum; delete that line")
    return digests


def _root_cause(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return first_line(error, 150)
