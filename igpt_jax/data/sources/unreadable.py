"""Files of a folder that could not be read: each is named once, and too many end the run."""

from __future__ import annotations

import logging

from igpt_jax.errors import InputError

log = logging.getLogger(__name__)


class Unreadable:
    """A count of files. Each worker process has its own.

    Args:
      what: the files are, such as "images".
      root: their folder.
      total: how many there are.
      limit: the largest share of them that may be unreadable.
    """

    def __init__(self, what: str, root: str, total: int, limit: float) -> None:
        self._what, self._root, self._total, self._limit = what, root, total, limit
        self._paths: dict[str, None] = {}  # an ordered set

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, path: str, error: InputError) -> None:
        """Counts a file; InputError if they are too many now."""
        if path not in self._paths:  # two threads at once may both warn
            log.warning("skipped: %s", error)
        self._paths[path] = None
        names = list(self._paths)
        if len(names) > self._limit * self._total:
            raise InputError(
                f"data.source: at least {len(names)} of {self._total} {self._what} in {self._root!r} cannot be read, "
                f"such as {', '.join(map(repr, names[:3]))}; repair or remove them, or raise data.max_unreadable "
                f"(--data.max-unreadable {min(1.0, max(0.2, 2 * self._limit)):g})"
            )
