"""Sentences for a reader, in one place: what a value must be, what was got, what to do next.

Every refusal of ldmkit says the rule, the value received and the mend. The functions here give back
the checked value in plain types, so that ``steps = whole("steps", steps, 1, 100)`` is all that a
caller writes; ``say`` is for what is no error but must be told.
"""

from __future__ import annotations

import difflib
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Any

__all__ = [
    "choice",
    "did_you_mean",
    "function",
    "heard_by",
    "nearest",
    "number",
    "say",
    "short",
    "whole",
]

# --- values ------------------------------------------------------------------------------------


def short(value: object, limit: int = 60) -> str:
    """A value as it may stand in a sentence: its ``repr``, cut; its type where it has none."""
    try:
        words = repr(value)
    except Exception:  # any object may come; Python itself refuses integers of 4,300 digits
        return f"a value of type {type(value).__name__}"
    return words if len(words) <= limit else words[: limit - 3] + "..."


def nearest(name: object, known: Iterable[object], cutoff: float = 0.5) -> str | None:
    """The known name that looks most like this one, or ``None``."""
    found = difflib.get_close_matches(str(name)[:100], [str(k) for k in known], n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(
    name: object, known: Iterable[object], otherwise: str = "", cutoff: float = 0.5
) -> str:
    """The end of a refusal: the nearest name as a question, or other advice."""
    near = nearest(name, known, cutoff)
    return otherwise if near is None else f"did you mean {near!r}?"


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number within its range, as ``int``.

    Args:
        name: of the setting, as the reader wrote it.
        value: anything.
        least: smallest allowed, or ``None``.
        most: largest allowed, or ``None``.

    Raises:
        TypeError: not a whole number (``True`` is none, either).
        ValueError: outside of the range.
    """
    try:
        found = None if _is_flag(value) else operator.index(value)
    except TypeError:  # a tensor or array of several has __index__, too, and raises
        found = None
    if found is None:
        raise TypeError(f"{name} must be a whole number{_range(least, most)}, got {short(value)}.")
    _within(name, found, least, most)
    return found


def number(
    name: str, value: Any, least: float | None = None, most: float | None = None, like: str = ""
) -> float:
    """A finite number within its range, as ``float``.

    Args:
        name: of the setting, as the reader wrote it.
        value: anything.
        least: smallest allowed, or ``None``.
        most: largest allowed, or ``None``.
        like: an example for the advice, such as ``"4.0"``.

    Raises:
        TypeError: not a number.
        ValueError: infinite, not a number, too large for a float, or outside of the range.
    """
    advice = f"; give one like {like}." if like else "."
    if _is_flag(value) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number{_range(least, most)}, got {short(value)}{advice}")
    try:
        found = float(value)
    except OverflowError:  # 10**400
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{name} must be a finite number, got {short(value)}{advice}")
    _within(name, found, least, most)
    return found


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """One of a few names.

    Raises:
        ValueError: another; the nearest is told.
    """
    names = tuple(known)
    if isinstance(value, str) and value in names:
        return value
    advice = did_you_mean(value, names, "take one of those.")
    raise ValueError(f"{name} must be one of {', '.join(names)}, got {short(value)}; {advice}")


def function(name: str, value: Any) -> Any:
    """Something to call, or ``None`` where nothing is to be called.

    Raises:
        TypeError: neither.
    """
    if value is not None and not callable(value):
        raise TypeError(
            f"{name} must be a function or None, got {short(value)}; write {name}=print to try."
        )
    return value


def _is_flag(value: Any) -> bool:
    # numpy's own truth values, told by name: this module needs no numpy
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")


def _within(name: str, found: float, least: float | None, most: float | None) -> None:
    if (least is None or found >= least) and (most is None or found <= most):
        return
    rule = _range(least, most).removeprefix(" of")
    inclusive = "" if least is None or most is None else " inclusive"
    raise ValueError(f"{name} must be{rule}{inclusive}, got {short(found)}.")


def _range(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" between {least} and {most}"
    if least is not None:
        return f" of {least} or more"
    return "" if most is None else f" of {most} at most"


# --- what is told ------------------------------------------------------------------------------

# ``warnings.catch_warnings`` changes what the whole process shows, so a panel's worker thread can't
# use it while a cell runs beside it: each thread has a listener of its own.
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
