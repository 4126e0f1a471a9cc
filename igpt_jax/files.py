"""Paths of the local file system, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from igpt_jax.errors import InputError

# One slash is enough: pathlib makes gs:/b/x of gs://b/x. A single letter is a drive of Windows.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(path: str | os.PathLike[str], what: str) -> Path:
    """A path of the local or a mounted file system. InputError, naming it as `what`, if it is an address, SCHEME://...,
    or was one before `pathlib.Path` took one of the slashes."""
    if _ADDRESS.match(os.fspath(path)):
        raise InputError(f"{what} {os.fspath(path)}: addresses are not supported yet; name a local or mounted path")
    return Path(path)


def normal_form(name: str) -> str:
    """A name as it is compared: in composed Unicode (NFC). File systems, archives and keyboards differ in theirs."""
    return unicodedata.normalize("NFC", name)


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a binary file that gets its name only when the block ends without an error; missing folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")  # process ids repeat on other hosts
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
