"""Fields: the form that every running panel has, and the prompt's own field.

``Form`` holds a field for each setting, Run and Stop, how far a run is, and two sentences: what of
the fields is wrong, until it is mended, and what a run or a refusal had to say.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anywidget
import ipywidgets
import traitlets

from ldmkit.critters import UnknownWords
from ldmkit.critters import words as critter_words
from ldmkit.figures.html import asset, module, shorten, text
from ldmkit.loading.catalog import is_embedded
from ldmkit.panels.job import Job

__all__ = ["Form", "WordsField", "row", "small_button", "unknown_words", "vocabulary_of"]


def row(kind: str, parts: list[ipywidgets.Widget]) -> ipywidgets.Box:
    """Widgets side by side, under a class of the style sheet."""
    box = ipywidgets.Box(parts)
    box.add_class(kind)
    return box


def small_button(icon: str, tooltip: str, words: str = "") -> ipywidgets.Button:
    """A button as large as its icon, or its one sign."""
    button = ipywidgets.Button(icon=icon, tooltip=tooltip, description=words)
    button.add_class("ldm-small")
    return button


class Form(ipywidgets.VBox):
    """Fields by the settings' names; a subclass makes them in ``_make`` and puts them in rows.

    A field has a ``value``, or where it is made of several a ``fill`` and a ``standing``.

    Attributes:
        counted: what a job's steps are called, one and several.
        run, stop: the buttons.

    Args:
        on_edit: called with the name of the setting whose field the reader changed.
        **options: for ``_make``.
    """

    counted = ("step", "steps")

    def __init__(self, on_edit: Callable[[str], None], **options: Any) -> None:
        self._on_edit, self._filling = on_edit, False
        self._complaint = self._said = ""
        self.run = ipywidgets.Button(description="Run", button_style="primary")
        self.run.add_class("ldm-run")
        self.stop = ipywidgets.Button(
            description="Stop", disabled=True, tooltip="End after this step and keep the part"
        )
        self.stop.add_class("ldm-stop")
        self._bar = ipywidgets.FloatProgress(min=0, max=1)
        self._bar.add_class("ldm-progress")
        self._status = ipywidgets.HTML()
        self._status.add_class("ldm-status-line")
        self._message = ipywidgets.HTML()
        self._message.add_class("ldm-message")
        self._fields: dict[str, Any] = {}
        rows = self._make(**options)
        for name, field in self._fields.items():
            field.add_class(f"ldm-set-{name.replace('_', '-')}")
            if hasattr(field, "style") and hasattr(field.style, "description_width"):
                field.style.description_width = "initial"
            field.observe(self._tell(name), names=["value"])
        actions = row("ldm-actions", [self.run, self.stop, self._bar, self._status])
        super().__init__([*rows, actions, self._message])
        self.add_class("ldm-form")

    def _make(self, **options: Any) -> list[ipywidgets.Widget]:
        """The rows; fields are put into ``_fields``."""
        raise NotImplementedError

    def seed_row(self) -> ipywidgets.Box:
        """The seed's field with its dice."""
        self._fields["seed"] = ipywidgets.IntText(description="Seed")
        self.dice = small_button("random", "Throw dice: another seed")
        self.dice.add_class("ldm-dice")
        self.dice.on_click(lambda _: self._throw())
        return row("ldm-seed", [self._fields["seed"], self.dice])

    def _throw(self) -> None:
        self._fields["seed"].value = random.randrange(100_000)  # few digits: a class reads them

    # --- what stands in the fields -------------------------------------------------------------

    def _tell(self, name: str) -> Callable[[Any], None]:
        def edited(_: Any) -> None:
            if not self._filling:
                self._on_edit(name)

        return edited

    def refused(self, name: str, words: str) -> None:
        """What the reader gave a field can't be taken; without words: he turned away from it."""
        if self._filling or not (words or self._complaint):
            return
        self._on_edit(name)
        if words != self._complaint:  # what does not stand in the field is said until he goes on
            self.say(words, wrong=True)

    def fill(self, settings: Mapping[str, Any]) -> None:
        """Shows settings in the fields, without a call of ``on_edit``."""
        self._filling = True
        try:
            for name, value in settings.items():
                field = self._fields[name]
                if hasattr(field, "fill"):
                    field.fill(value)
                elif field.value != value:
                    field.value = value
        finally:
            self._filling = False

    def entry(self, name: str) -> Any:
        """What stands in a field, right or wrong.

        Raises:
            TypeError, ValueError: a part of it is wrong.
        """
        field = self._fields[name]
        return field.standing() if hasattr(field, "standing") else field.value

    def entries(self) -> dict[str, Any]:
        """What stands in all of them."""
        return {name: self.entry(name) for name in self._fields}

    def wrong(
        self, checked: Callable[[dict[str, Any]], Any], known: Mapping[str, Any]
    ) -> dict[str, str]:
        """What is wrong with what stands in the fields: a sentence by the setting's name.

        Args:
            checked: refuses settings.
            known: settings that were checked: what is one of them is right.
        """
        found = {}
        for name in self._fields:
            try:
                entry = self.entry(name)
                if entry is not known.get(name):
                    checked({name: entry})
            except (TypeError, ValueError) as error:
                found[name] = str(error)
        return found

    # --- what is said --------------------------------------------------------------------------

    @property
    def warns(self) -> bool:
        """Whether what was said last was of something wrong."""
        return "ldm-wrong" in self._said

    def complain(self, words: str) -> None:
        """What is wrong with the fields; it stays until it is called with nothing."""
        self._complaint = words
        self._draw_message()

    def say(self, words: str, *, wrong: bool = False, details: str = "") -> None:
        """One sentence under the fields; ``details`` can be unfolded."""
        self._said = _sentence(words, wrong, details)
        self._draw_message()

    def _draw_message(self) -> None:
        self._message.value = _sentence(self._complaint, wrong=True) + self._said

    def follow(self, job: Job, busy: bool) -> None:
        """Shows how far a job is; ``busy``: there is something to stop."""
        self.run.disabled = busy
        self.stop.disabled = not busy or job.in_foreground  # a busy kernel hears of no click
        done, total = job.progress.done, job.progress.total
        one, several = self.counted
        if job.state == "running":
            self._bar.value = done / total if total else 0
            self._bar.add_class("ldm-on")
            self._status.value = text(_progress(job, one))
            return
        self._bar.remove_class("ldm-on")
        if job.state == "waiting":
            self._status.value = "Waiting for another run to end …"
        elif job.state == "stopped":
            self._status.value = text(f"Stopped after {one} {done} of {total or '?'}")
        elif job.state == "done":
            self._status.value = text(f"{done} {several} in {job.seconds:.1f} s")
        else:
            self._status.value = ""


def _sentence(words: str, wrong: bool = False, details: str = "") -> str:
    if not words:
        return ""
    kind, role = ("ldm-wrong", "alert") if wrong else ("ldm-note", "status")
    fold = f"<details><summary>Details</summary><pre>{text(details)}</pre></details>"
    return f'<div class="{kind}" role="{role}">{text(words)}{fold if details else ""}</div>'


def _progress(job: Job, one: str) -> str:
    progress = job.progress
    if not progress.done:
        return "Starting …"
    words = f"{one.capitalize()} {progress.done} of {progress.total or '?'}"
    left = progress.seconds_left
    if left is not None:
        words += f" · {left:.0f} s left" if left < 90 else f" · {left / 60:.0f} min left"
    return f"{words} · interrupt the kernel to stop" if job.in_foreground else words


# --- the prompt ----------------------------------------------------------------------------------


class _View(anywidget.AnyWidget):
    """The custom view of a ``WordsField``."""

    _esm = module("words.mjs", "ldmkit.panels")
    _css = asset("words.css", "ldmkit.panels")

    value = traitlets.Unicode("", help="The words.").tag(sync=True)
    vocabulary = traitlets.List(
        traitlets.Unicode(), help="Words that are not marked; empty: none is ever marked."
    ).tag(sync=True)
    title = traitlets.Unicode("", help="Stands above the field.").tag(sync=True)
    placeholder = traitlets.Unicode("", help="Stands in an empty field.").tag(sync=True)
    live = traitlets.Bool(False, help="Whether each letter is told at once.").tag(sync=True)
    awake = traitlets.Bool(False, help="True once a view stands.").tag(sync=True)


class WordsField(ipywidgets.VBox):
    """A prompt whose unknown words are marked while it is typed, and its stand-in.

    Marking needs a view of its own, since no stock widget runs code in the browser and a kernel
    that is busy with a run would mark nothing. Where anywidget's front end is missing, a stock
    Textarea stands in after three seconds, as in ``trajectory.StockPlayer``.

    Args:
        vocabulary: words that the model learned; empty where it knows them all.
        title: stands above the field.
        placeholder: stands in an empty field.
        on_enter: called when the reader presses Ctrl+Enter (or Cmd+Enter) in the field.
        live: ``value`` follows each letter, not only when the reader leaves the field.
    """

    value = traitlets.Unicode("", help="The words.")

    def __init__(
        self,
        vocabulary: Iterable[str],
        *,
        title: str,
        placeholder: str = "",
        on_enter: Callable[[], None] = lambda: None,
        live: bool = False,
    ) -> None:
        self._view = _View(
            vocabulary=sorted(vocabulary), title=title, placeholder=placeholder, live=live
        )
        self._stock = ipywidgets.Textarea(
            description=title, placeholder=placeholder, continuous_update=live, rows=2
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
    return critter_words if is_embedded(pipe) else frozenset()


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
