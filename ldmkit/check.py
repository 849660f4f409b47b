"""Sentences for a reader, in one place: what a value must be, what was got, what to do next.

Every refusal of ldmkit says the rule, the value received and the mend. The functions here give back
the checked value in plain types, so that ``steps = whole("steps", steps, 1, 100)`` is all that a
caller writes; ``say`` is for what is no error but must be told.
"""

from __future__ import annotations

import difflib
import html
import inspect
import math
import operator
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Any, TypeVar

__all__ = [
    "choice",
    "cut",
    "did_you_mean",
    "flag",
    "function",
    "heard_by",
    "nearest",
    "number",
    "or_said",
    "plain",
    "say",
    "says_no",
    "short",
    "text",
    "whole",
]

T = TypeVar("T")

# --- values ------------------------------------------------------------------------------------


def short(value: object, limit: int = 60) -> str:
    """A value as it may stand in a sentence: its ``repr`` in a line, cut; an array's shape."""
    try:
        if shape := tuple(getattr(value, "shape", ())):
            return f"{type(value).__name__} of shape {shape}"
        words = " ".join(line.strip() for line in repr(value).splitlines())
    except Exception:  # any object may come; Python itself refuses integers of 4,300 digits
        return f"a value of type {type(value).__name__}"
    if len(words) <= limit:
        return words
    if words.startswith(f"{type(value).__name__} {{"):  # a pipeline that writes its configuration
        return type(value).__name__
    return words[: limit - 3] + "..."


def nearest(name: object, known: Iterable[object], cutoff: float = 0.5) -> str | None:
    """The known name that looks most like this one, or ``None``."""
    # Python refuses to write integers of 4,300 digits.
    words = name[:100] if isinstance(name, str) else short(name, 100)
    found = difflib.get_close_matches(words, [str(k) for k in known], n=1, cutoff=cutoff)
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


def choice(name: str, value: Any, known: Iterable[str], why: str = "") -> str:
    """One of a few names.

    Args:
        name: of the setting, as the reader wrote it.
        value: anything.
        known: the names.
        why: what decides which there are, such as ``" with this pipeline"``.

    Raises:
        ValueError: another; the nearest is told.
    """
    names = tuple(known)
    if isinstance(value, str) and value in names:
        return value
    advice = did_you_mean(value, names, "take one of those.")
    raise ValueError(f"{name} must be one of {', '.join(names)}{why}, got {short(value)}; {advice}")


def flag(name: str, value: Any) -> bool:
    """``True`` or ``False``.

    Raises:
        TypeError: anything else.
    """
    if not _is_flag(value):
        raise TypeError(f"{name} must be True or False, got {short(value)}.")
    return bool(value)


# What a function is called with; one that can't be would fail when the first step is made.
_CALLED_WITH = {
    "on_step": ("step",),
    "on_update": ("update",),
    "on_frame": ("number", "picture"),
    "callback": ("step", "timestep", "latents"),
    "callback_on_step_end": ("pipe", "step", "timestep", "callback_kwargs"),
}


def function(name: str, value: Any) -> Any:
    """Something to call, or ``None`` where nothing is to be called.

    Raises:
        TypeError: neither, or one that can't be called with what it will be given.
    """
    if value is not None and not callable(value):
        raise TypeError(
            f"{name} must be a function or None, got {short(value)}; write {name}=print to try."
        )
    given = _CALLED_WITH.get(name, ())
    if value is not None and given and not _takes(value, len(given)):
        raise TypeError(
            f"{name} is called with ({', '.join(given)}), which {short(value)} doesn't take; "
            f"write def {name}({', '.join(given)}): ..."
        )
    return value


def _takes(value: Any, count: int) -> bool:
    try:
        inspect.signature(value).bind(*[None] * count)
    except ValueError:  # one whose signature Python can't read
        return True
    except TypeError:
        return False
    return True


def says_no(answer: Any) -> bool:
    """Whether ``on_step`` or ``on_update`` answered ``False``; no answer is none."""
    return _is_flag(answer) and not answer


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


# --- words ---------------------------------------------------------------------------------------

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e]")
_EMBEDDINGS, _ISOLATES = "\u202a\u202b", "\u2066\u2067\u2068"
_ENDS = "\u202c\u2069"  # of the one and of the other


def plain(words: str) -> str:
    """Words as they may be shown: all letters of all scripts, nothing that steers a terminal.

    Control characters (but tab and newline), half a surrogate pair, which UTF-8 can't hold, and the
    two marks that turn letters against their own direction (U+202D, U+202E) become U+FFFD. Joiners
    inside words and emoji stay, as do letters newer than this Python's tables. A change of
    direction that is left open is closed at the end, so that it doesn't reach what follows.
    """
    whole = words.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # pairs are joined
    whole = _CONTROLS.sub("\ufffd", whole)
    opened = [sum(map(whole.count, marks)) for marks in (_EMBEDDINGS, _ISOLATES)]
    if not any(opened):
        return whole
    return whole.rstrip(_ENDS) + _ENDS[0] * opened[0] + _ENDS[1] * opened[1]


def text(value: object) -> str:
    """Escaped for HTML text and for a double-quoted attribute; every border passes here."""
    return html.escape(plain(str(value)), quote=True)


def cut(words: str, limit: int) -> str:
    """At most so many characters, the last an ellipsis where some are gone.

    No letter loses its marks, no emoji of several parts is taken apart (unless it is endless).
    """
    if len(words) <= limit:
        return words
    end = limit - 1
    for place in range(end, max(end - 20, 0), -1):
        if words[place - 1] != "\u200d" and not _leans(words[place]):
            end = place
            break
    return words[:end].rstrip() + "…"


def _leans(letter: str) -> bool:
    """Whether it belongs to the letter before: marks, joiners, skin colours, tags of a flag."""
    extends = letter == "\u200d" or "\U0001f3fb" <= letter <= "\U0001f3ff"
    return (
        extends or unicodedata.category(letter)[0] == "M" or "\U000e0020" <= letter <= "\U000e007f"
    )


# --- what is told ------------------------------------------------------------------------------

# Whose frames are no reader's: ldmkit's, and those of libraries that call back into it.
_OURS = ("ldmkit", "contextlib", "functools", "diffusers", "torch", "transformers")
# ``warnings.catch_warnings`` changes what the whole process shows, so a panel's worker thread can't
# use it while a cell runs beside it: each thread has a listener of its own.
_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def say(words: str, *, stacklevel: int | None = None) -> None:
    """Tells the listener of this thread, or warns.

    Args:
        words: one sentence.
        stacklevel: as for ``warnings.warn`` in the caller's place; by default the reader's line,
            the first outside of ldmkit.
    """
    listener = _listener.get()
    if listener is None:
        level = _readers_line() if stacklevel is None else stacklevel + 1
        warnings.warn(words, UserWarning, stacklevel=level)
    else:
        listener(words)


def or_said(what: str, make: Callable[[], T], otherwise: Any) -> T:
    """Makes a part of a record; a run that has ended is not lost for what one part can't do.

    Args:
        what: the part, as the sentence names it.
        make: makes it.
        otherwise: what stands in its place where that fails.
    """
    try:
        return make()
    except Exception as error:  # whatever a stranger's autoencoder or latents may raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        say(f"{what} can't be made of this run, which is kept without ({reason[:200]}).")
        return otherwise


def _readers_line() -> int:
    """How far above ``say`` the first frame is that is neither ldmkit's nor a ``with`` block's."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(_OURS):
        level, frame = level + 1, frame.f_back
    return level


@contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, this thread's sentences go to the listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
