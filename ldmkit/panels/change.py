"""What the network reads, changed for some steps: a fold of the prompt's panel, closed at first.

Its two settings are ``ldmkit.intervene``'s: ``words`` and ``steps``. Layers, schedules and maps of
another picture are set in code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import ipywidgets
import traitlets

from ldmkit.check import short
from ldmkit.figures.html import shorten
from ldmkit.panels.fields import row
from ldmkit.recording.intervene import checked_steps, checked_words

__all__ = ["ChangeField", "change_code", "checked_change"]

Change = dict[str, Any]

_KINDS = {
    "": "the prompt",
    "none": "no words",
    "words": "other words",
    "weights": "words weighed",
}
_EXAMPLES = {"words": "a red dog", "weights": "hat: 0, red: 2"}


def checked_change(name: str, entry: Any) -> Change | None:
    """A change as it is kept, ``{"words": ..., "steps": range or None}``; ``None``: none.

    Raises:
        TypeError, ValueError: what ``ldmkit.intervene`` would not take, or steps with gaps.
    """
    if entry is None:
        return None
    if not isinstance(entry, Mapping) or not {"words"} <= {*entry} <= {"words", "steps"}:
        raise TypeError(
            f'{name} must be None, or words and steps like {{"words": None, "steps": '
            f"range(0, 10)}}, got {short(entry)}; ldmkit.intervene takes more."
        )
    words, steps = checked_words(entry["words"]), checked_steps(entry.get("steps"))
    if steps is None:
        return {"words": words, "steps": None}
    found = range(min(steps, default=0), max(steps, default=-1) + 1)
    if not steps or len(found) != len(steps):
        raise ValueError(
            f"steps must be one after the other in a panel, got {short(entry['steps'])}; write "
            "range(0, 10), or take ldmkit.intervene."
        )
    return {"words": words, "steps": found}


def change_code(name: str, change: Change) -> str:
    """The line of Python under which a run is changed so."""
    steps = "" if change["steps"] is None else f", steps={change['steps']!r}"
    return f"with ldmkit.intervene({name}, words={change['words']!r}{steps}):"


class ChangeField(ipywidgets.VBox):
    """The fold; ``fill`` and ``standing`` as the form asks for them.

    Steps are counted from 1 here, as the player does, and from 0 in a setting.

    Args:
        live: each letter counts.
    """

    value = traitlets.Tuple(help="What stands in the fields: the kind, the words, the steps.")

    def __init__(self, *, live: bool) -> None:
        self._fold = ipywidgets.ToggleButton(icon="caret-right")
        self._fold.add_class("ldm-fold")
        self._kind = ipywidgets.Dropdown(
            options=[(words, kind) for kind, words in _KINDS.items()], description="It reads"
        )
        self._words = ipywidgets.Text(description="Words", continuous_update=live)
        self._steps = ipywidgets.Text(
            description="When", placeholder="all steps, or 1-10", continuous_update=live
        )
        fields = (self._kind, self._words, self._steps)
        self._box = row("ldm-numbers", list(fields))
        super().__init__([self._fold, self._box])
        for field in fields:
            field.style.description_width = "initial"
            field.observe(lambda _: self._changed(), names=["value"])
        self._fold.observe(lambda _: self._draw(), names=["value"])
        self._changed()

    def _changed(self) -> None:
        self._draw()
        self.value = (self._kind.value, self._words.value, self._steps.value)

    def _draw(self) -> None:
        kind, is_open = self._kind.value, self._fold.value
        self._box.layout.display = "" if is_open else "none"
        self._fold.icon = "caret-down" if is_open else "caret-right"
        self._words.layout.display = "" if kind in _EXAMPLES else "none"
        self._words.placeholder = _EXAMPLES.get(kind, "")
        self._words.description = "Weights" if kind == "weights" else "Words"
        self._steps.layout.display = "" if kind else "none"
        told = _KINDS[kind if self._says_something else ""]
        if kind in _EXAMPLES and self._says_something:
            told = f"{told} “{shorten(self._words.value, 40)}”"
        steps = shorten(self._steps.value.strip(), 20)
        within = f" in steps {steps}" if kind and steps and self._says_something else ""
        self._fold.description = f"What the network reads: {told}{within}"

    @property
    def _says_something(self) -> bool:
        """Whether a change stands there: weights are chosen first, and written then."""
        return self._kind.value != "weights" or bool(self._words.value.strip())

    def fill(self, change: Change | None) -> None:
        """Shows a change; what the reader wrote for it stays as he wrote it."""
        try:
            if checked_change("intervene", self.standing()) == change:
                return
        except (TypeError, ValueError):
            pass
        words = None if change is None else change["words"]
        steps = None if change is None else change["steps"]
        self._kind.value = "" if change is None else _kind_of(words)
        if isinstance(words, Mapping):
            self._words.value = ", ".join(
                f"{word}: {_told(weight)}" for word, weight in words.items()
            )
        elif words is not None:
            self._words.value = words
        self._steps.value = "" if steps is None else f"{steps[0] + 1}-{steps[-1] + 1}"

    def standing(self) -> Change | None:
        """The change that stands in the fields; ``None`` while no weight is written yet.

        Raises:
            ValueError: weights or steps that can't be read.
        """
        kind, words = self._kind.value, self._words.value
        if not kind or not self._says_something:
            return None
        said: Any = {"none": None, "words": words}.get(kind)
        if kind == "weights":
            said = _weights(words)
        return {"words": said, "steps": _steps_of(self._steps.value)}


def _told(weight: float) -> str:
    """As short as may be, and the same number again."""
    return f"{weight:g}" if float(f"{weight:g}") == weight else repr(float(weight))


def _kind_of(words: Any) -> str:
    if words is None:
        return "none"
    return "words" if isinstance(words, str) else "weights"


def _weights(words: str) -> dict[str, float]:
    """``"hat: 0, red: 2"`` as a dict."""
    found = {}
    for part in words.split(","):
        word, _, weight = part.rpartition(":")
        try:
            found[word.strip()] = float(weight)
        except ValueError:
            found[""] = 0.0
    if "" in found:
        raise ValueError(
            f"Weights must be written like {_EXAMPLES['weights']}, got {short(words)}."
        )
    return found


def _steps_of(words: str) -> range | None:
    """``"1-10"``, or ``"3"``, as intervene counts them."""
    if not words.strip():
        return None
    found = re.fullmatch(r"\s*(\d{1,6})\s*(?:[-–]\s*(\d{1,6})\s*)?", words)
    first = int(found[1]) if found else 0
    last = int(found[2] or first) if found else 0
    if not 1 <= first <= last:
        raise ValueError(
            "Steps must be like 1-10, or 3, counted from 1, or nothing for all, got "
            f"{short(words)}."
        )
    return range(first - 1, last)
