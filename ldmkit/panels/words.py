"""``WordsField``: a prompt whose unknown words are marked while it is typed.

Marking needs a view of its own, since no stock widget runs code in the browser and a kernel that
is busy with a run would mark nothing. Where anywidget's front end is missing, a stock Textarea
stands in after three seconds, as in ``stock``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from typing import Any

import anywidget
import ipywidgets
import traitlets

from ldmkit.critters import UnknownWords
from ldmkit.critters import words as critter_words
from ldmkit.figures.words import shorten
from ldmkit.loading.catalog import CATALOG
from ldmkit.loading.origin import origin_of

__all__ = ["WordsField", "part", "unknown_words", "vocabulary_of"]


@cache
def part(name: str) -> str:
    """The text of a file beside this module."""
    return files("ldmkit.panels").joinpath(name).read_text(encoding="utf-8")


class _View(anywidget.AnyWidget):
    """The custom view."""

    _esm = part("words.mjs")
    _css = part("words.css")

    value = traitlets.Unicode("", help="The words.").tag(sync=True)
    vocabulary = traitlets.List(
        traitlets.Unicode(), help="Words that are not marked; empty: none is ever marked."
    ).tag(sync=True)
    title = traitlets.Unicode("", help="Stands above the field.").tag(sync=True)
    placeholder = traitlets.Unicode("", help="Stands in an empty field.").tag(sync=True)
    awake = traitlets.Bool(False, help="True once a view stands.").tag(sync=True)


class WordsField(ipywidgets.VBox):
    """The field and its stand-in; ``value`` is both.

    Args:
        vocabulary: words that the model learned; empty where it knows them all.
        title: stands above the field.
        placeholder: stands in an empty field.
        on_enter: called when the reader presses Ctrl+Enter (or Cmd+Enter) in the field.
    """

    value = traitlets.Unicode("", help="The words.")

    def __init__(
        self,
        vocabulary: Iterable[str],
        *,
        title: str,
        placeholder: str = "",
        on_enter: Callable[[], None] = lambda: None,
    ) -> None:
        self._view = _View(vocabulary=sorted(vocabulary), title=title, placeholder=placeholder)
        self._stock = ipywidgets.Textarea(
            description=title, placeholder=placeholder, continuous_update=False, rows=2
        )
        self._stock.style.description_width = "initial"
        self._stock.add_class("ldm-words-stock")
        super().__init__([self._view, self._stock])
        self.add_class("ldm-words-either")
        for field in (self._view, self._stock):
            traitlets.link((self, "value"), (field, "value"))  # close_tree unlinks
        self._on_enter = on_enter
        self._view.on_msg(self._hear)

    @property
    def awake(self) -> bool:
        """Whether a browser marks unknown words."""
        return self._view.awake

    def _hear(self, _: Any, content: Any, __: Any) -> None:
        if content.get("run"):
            self._on_enter()


def vocabulary_of(pipe: Any) -> frozenset[str]:
    """The words that an embedded model learned; empty for models that know any word."""
    row = CATALOG.get(origin_of(pipe).name.split(":")[0])
    return critter_words if row is not None and row.embedded else frozenset()


def unknown_words(vocabulary: frozenset[str], prompt: str) -> str:
    """A sentence where a prompt holds words that the model never learned."""
    words = re.findall(r"[^\s,.;:!?]+", prompt.lower()) if vocabulary else []
    unknown = list(dict.fromkeys(word for word in words if word not in vocabulary))
    if not unknown:
        return ""
    nearest = UnknownWords(unknown[:5]).nearest
    told = [f"“{shorten(w, 30)}”" + (f" (nearest: {n})" if n else "") for w, n in nearest.items()]
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    return f"This model never learned {', '.join(told)}{more}: expect anything."
