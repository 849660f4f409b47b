"""The terms of a sum as chips: a sign, a weight, and what stands there; added and removed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ipywidgets
import traitlets

from ldmkit.figures.checks import short_repr
from ldmkit.figures.words import shorten, text
from ldmkit.panels.actions import row
from ldmkit.panels.ends import EndField, checked_end, name_of
from ldmkit.panels.stock import close_tree
from ldmkit.panels.walk_form import checked_number
from ldmkit.space.sums import written

__all__ = ["MOST_TERMS", "TermsField", "checked_terms", "formula"]

MOST_TERMS = 8  # more don't fit on a screen
MOST_WEIGHT = 10.0
NEW = (1.0, "a red cat")  # what a new chip holds until it is edited

Term = tuple[float, Any]


def checked_terms(entry: Any) -> tuple[Term, ...]:
    """Terms as they are kept: pairs of a weight, −10 to 10, and what ``checked_end`` keeps.

    Args:
        entry: a list of terms; a thing without a weight counts once.

    Raises:
        TypeError: no list, or a term of a wrong kind.
        ValueError: too many terms, a weight out of its range, words beyond all measure.
    """
    if not isinstance(entry, (list, tuple)):
        raise TypeError(
            f"terms must be a list of pairs of a weight and a thing, got {short_repr(entry)}; "
            'write [(1, picture), (1, "a cat with a crown"), (-1, "a cat")].'
        )
    if len(entry) > MOST_TERMS:
        raise ValueError(f"A sum may have {MOST_TERMS} terms at most here, got {len(entry)}.")
    return tuple(_checked(i, term) for i, term in enumerate(entry, 1))


def _checked(number: int, term: Any) -> Term:
    paired = isinstance(term, (list, tuple))
    if paired and len(term) != 2:
        raise TypeError(
            f"Term {number} must be a pair of a weight and a thing, got {short_repr(term)}; "
            'write (1, "a cat").'
        )
    weight, thing = term if paired else (1.0, term)
    name = f"The weight of term {number}"
    return checked_number(name, weight, -MOST_WEIGHT, MOST_WEIGHT), checked_end(
        f"Term {number}", thing
    )


def formula(terms: tuple[Term, ...]) -> str:
    """The sum in words, long labels cut."""
    return written([(w, shorten(name_of(thing, i), 60)) for i, (w, thing) in enumerate(terms)])


class TermsField(ipywidgets.VBox):
    """Chips under the sum in words; ``value`` are the terms as ``checked_terms`` keeps them.

    Args:
        options: of each ``EndField``: ``vocabulary``, ``on_wrong``, ``on_enter``.
    """

    value = traitlets.Any((), help="The terms, pairs of a weight and a thing.")

    def __init__(self, **options: Any) -> None:
        self._options, self._ours = options, False
        self._chips: list[_Chip] = []
        self._sum = ipywidgets.HTML()
        self._sum.add_class("ldm-sum")
        self._box = row("ldm-terms", [])
        self._add = ipywidgets.Button(description="Add a term", icon="plus")
        self._add.add_class("ldm-add")
        self._add.on_click(lambda _: self._grow())
        super().__init__([self._sum, self._box, self._add])
        self.observe(lambda _: self._draw(), names=["value"])

    @property
    def entry(self) -> list[Term]:
        """What stands in the chips, right or wrong."""
        return [chip.term for chip in self._chips]

    def standing(self) -> list[Term]:
        """The same, or one sentence where a chip's end is wrong (see ``EndField.standing``)."""
        return [chip.standing(f"Term {i}") for i, chip in enumerate(self._chips, 1)]

    def _draw(self) -> None:
        terms = self.value
        if not self._ours:
            while len(self._chips) > len(terms):
                close_tree(self._chips.pop())
            while len(self._chips) < len(terms):
                self._chips.append(self._chip())
            for chip, term in zip(self._chips, terms, strict=True):
                chip.fill(term)
        for i, chip in enumerate(self._chips):
            chip.count_as(i)
        self._box.children = tuple(self._chips)
        self._sum.value = text(formula(terms) if terms else "An empty sum: add a term.")
        self._add.disabled = len(terms) >= MOST_TERMS

    def _chip(self) -> _Chip:
        return _Chip(self._collect, self._shrink, **self._options)

    def _collect(self) -> None:
        """A chip was edited: what all of them hold, or a sentence on what is wrong."""
        try:
            terms = checked_terms(self.entry)
        except (TypeError, ValueError) as error:
            self._options["on_wrong"](str(error))
            return
        self._ours = True
        try:
            self.value = terms
        finally:
            self._ours = False

    def _grow(self) -> None:
        chip = self._chip()
        chip.fill(NEW)
        self._chips.append(chip)
        self._collect()

    def _shrink(self, chip: _Chip) -> None:
        self._chips.remove(chip)
        self._collect()
        self._box.children = tuple(self._chips)  # also where another chip is wrong
        close_tree(chip)


class _Chip(ipywidgets.VBox):
    """One term."""

    def __init__(
        self,
        on_edit: Callable[[], None],
        on_remove: Callable[[_Chip], None],
        **options: Any,
    ) -> None:
        self._on_edit, self._filling = on_edit, False
        self._sign = ipywidgets.ToggleButtons(
            options=[("+", 1.0), ("−", -1.0)], tooltips=["Add this term", "Subtract this term"]
        )
        self._sign.add_class("ldm-sign")
        self._weight = ipywidgets.FloatText(description="×", step=0.1)
        self._weight.add_class("ldm-weight")
        self._weight.style.description_width = "initial"
        remove = ipywidgets.Button(icon="trash", tooltip="Take this term out of the sum")
        remove.add_class("ldm-small")
        remove.on_click(lambda _: on_remove(self))
        self._end = EndField("Term", on_edit=lambda _: self._edited(), **options)
        super().__init__([row("ldm-chip-head", [self._sign, self._weight, remove]), self._end])
        self.add_class("ldm-chip")
        for field in (self._sign, self._weight):
            field.observe(lambda _: self._edited(), names=["value"])

    @property
    def term(self) -> Term:
        """Its weight, with its sign, and what stands there."""
        return self._sign.value * self._weight.value, self._end.end

    def standing(self, name: str) -> Term:
        """The same, or one sentence where its end is wrong."""
        return self.term[0], self._end.standing(name)

    def count_as(self, number: int) -> None:
        """Which term it is, from 0."""
        self._end.count_as(number)

    def fill(self, term: Term) -> None:
        """Shows a term, without a call of ``on_edit``."""
        self._filling = True
        try:
            weight, end = term
            self._sign.value = math.copysign(1.0, weight)
            self._weight.value = abs(weight)
            self._end.fill(end)
        finally:
            self._filling = False
        (self.add_class if self._sign.value < 0 else self.remove_class)("ldm-minus")

    def _edited(self) -> None:
        if self._filling:
            return
        (self.add_class if self._sign.value < 0 else self.remove_class)("ldm-minus")
        self._on_edit()
