"""Sentences that a run has for its reader: a warning, unless somebody listens in this thread.

``warnings.catch_warnings`` changes what the whole process shows, so a panel's worker thread can't
use it while a cell runs beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["heard_by", "say"]

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def say(words: str, *, stacklevel: int) -> None:
    """Tells the listener of this thread, or warns.

    Args:
        words: one sentence.
        stacklevel: as for ``warnings.warn`` in the caller's place.
    """
    listener = _listener.get()
    if listener is None:
        warnings.warn(words, UserWarning, stacklevel=stacklevel + 1)
    else:
        listener(words)


@contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, this thread's sentences go to the listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
