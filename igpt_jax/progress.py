"""Progress of long work. The library reports it; whoever wants to show it listens.

As with logging, nothing is passed through the functions in between, and without a listener nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Listener = Callable[[str, int, int, str], None]
"""(what is being done, how much is done, of how much, numbers to show beside it)."""

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


def report(what: str, done: int, total: int, numbers: str = "") -> None:
    """Tells the listeners that `done` of `total` are done. Call it with 0 first and with `total` last."""
    for listener in _listeners.get():
        listener(what, done, total, numbers)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, with a report before each and one at the end."""
    for i, item in enumerate(items):
        report(what, i, total)
        yield item
    report(what, total, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Calls `listener` at every report of this thread within the block."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
