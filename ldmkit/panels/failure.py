"""What went wrong, in one sentence, and the traceback as text: no frame is kept alive."""

from __future__ import annotations

import traceback

__all__ = ["FULL", "details", "sentence"]

LONGEST = 400  # characters of an error's sentence
LONGEST_DETAILS = 20_000
FULL = (
    "The memory is full: ask for a smaller picture or fewer at once, free other models with "
    'ldmkit.release(), or load this one with dtype="float16"; restart the kernel if it stays full.'
)


def sentence(error: BaseException) -> str:
    """One sentence; ldmkit's own errors are one already."""
    words = " ".join(str(error).split("\n\n")[0].split())
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or _is_full(words):
        return FULL
    if not _is_ours(error):
        words = f"The run failed with {kind}: {words}" if words else f"The run failed with {kind}"
    words += "" if words[-1:] in ".!?…" and words else "."
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"


def _is_full(words: str) -> bool:
    said = words.lower()
    return "out of memory" in said or "not enough memory" in said or "can't allocate" in said


def _is_ours(error: BaseException) -> bool:
    """Whether ldmkit raised it on purpose; a KeyError of its own would be a mistake."""
    if not isinstance(error, (TypeError, ValueError, RuntimeError, OSError)):
        return False
    module = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
    return module.split(".")[0] == "ldmkit"


def details(error: BaseException) -> str:
    """The traceback as text, its last 20,000 characters."""
    return "".join(traceback.format_exception(error))[-LONGEST_DETAILS:]
