"""stdout and stderr as a Unix program treats them: results are never lost quietly, messages never end a command."""

from __future__ import annotations

import codecs
import io
import os
import sys

SIGPIPE_CODE = 141
"""128 + SIGPIPE, as shells expect it."""


class OutputError(Exception):
    """stdout takes no more. The message is empty if its reader is gone, which is no mistake."""

    def __init__(self, error: OSError) -> None:
        pipe = isinstance(error, BrokenPipeError)
        super().__init__("" if pipe else f"stdout: {error.strerror}; the results could not be printed")
        self.code = SIGPIPE_CODE if pipe else 1


class _Stream(io.TextIOWrapper):
    """A standard stream. After an error, what is left in its buffers goes to /dev/null, so that closing it works.

    Characters that its encoding lacks are written in ASCII.
    """

    def __init__(self, fd: int, like: io.TextIOWrapper) -> None:
        raw = io.BufferedWriter(io.FileIO(fd, "wb", closefd=False))
        super().__init__(raw, like.encoding, "igpt.ascii", line_buffering=fd == 2 or like.line_buffering)
        self._fd = fd

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            return self._failed(error) or len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._fd)
        super().flush()
        if self._fd == 1:
            raise OutputError(error) from None


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    known = {"±": "+-", "•": "*", "…": "..."}.get(error.object[error.start])
    return (known, error.start + 1) if known else codecs.backslashreplace_errors(error)


def guard() -> bool:
    """Puts streams in place of sys.stdout and sys.stderr that fail as described above. False if stdout is closed."""
    there = sys.stdout is not None
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # files opened later do not take the place of a closed one
        pass
    os.close(fd)
    codecs.register_error("igpt.ascii", _in_ascii)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name) or open(number, "w", closefd=False)  # noqa: SIM115
        setattr(sys, name, _Stream(number, stream))
    return there
