"""Standard output as commands need it: what is printed there arrives, or one line on stderr says why not."""

from __future__ import annotations

import codecs
import io
import os
import sys

PLAIN = {"±": "+-", "×": "x", "≥": ">=", "≤": "<=", "…": "..."}
"""What replaces a character that the terminal's encoding does not have; a question mark for others."""


class OutputClosedError(Exception):
    """stdout was closed (SIGPIPE). It is no OSError, so that no library takes it for one of its own."""


class Results(io.TextIOBase):
    """Writes to stdout at once. Where it takes no more, as on a full disk, the rest goes to stderr and is not lost."""

    def __init__(self, fd: int, encoding: str) -> None:
        self._fd, self._encoding, self.failed = fd, encoding, False

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._encoding

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        data = text.encode(self._encoding, "igpt_plain")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except BrokenPipeError:
            raise OutputClosedError from None
        except OSError as error:
            if self._fd == 2:
                raise OutputClosedError from None
            print(f"igpt: stdout: {error.strerror}; the results follow here", file=sys.stderr, flush=True)
            self._fd, self.failed = 2, True
            self.write(data.decode(self._encoding, "replace"))
        return len(text)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


def open_results() -> Results | None:
    """Puts `Results` in place of sys.stdout; None where stdout is closed. A closed stream gets no file that is opened
    later, since the null device takes its place."""
    codecs.register_error("igpt_plain", _plain)
    closed = [fd for fd in range(3) if not _is_open(fd)]
    for fd in closed:
        os.dup2(os.open(os.devnull, os.O_RDWR), fd)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (as long as the process lives)
    if sys.stdout is None or 1 in closed:
        return None
    results = Results(1, sys.stdout.encoding or "utf-8")
    sys.stdout = results
    return results


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
