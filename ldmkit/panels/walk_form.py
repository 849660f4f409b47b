"""The settings that panels of walks share: how they are checked, and the fields for them."""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import ipywidgets

from ldmkit.critters import words as critter_words
from ldmkit.figures.checks import short_repr
from ldmkit.loading.origin import origin_of
from ldmkit.panels.actions import Actions, row
from ldmkit.panels.ends import EndField, whole_number
from ldmkit.panels.settings import LARGEST_SEED
from ldmkit.recording import call as checks
from ldmkit.space.adaptors import family_of

__all__ = [
    "MOST_FRAMES",
    "WalkForm",
    "check_extra",
    "checked_choice",
    "checked_frames",
    "checked_number",
    "checked_seed",
    "checked_steps",
    "usual_steps",
    "vocabulary_of",
]

MOST_FRAMES = 64  # a browser holds them all
MOST_STEPS = 1000


def checked_frames(entry: Any) -> int:
    """How many pictures, 2 to 64."""
    return _whole("num_frames", entry, 2, MOST_FRAMES)


def checked_steps(entry: Any) -> int:
    """How many steps, 1 to 1,000."""
    return _whole("num_inference_steps", entry, 1, MOST_STEPS)


def checked_seed(entry: Any) -> int:
    """One seed that a browser's numbers hold."""
    return _whole("seed", entry, 0, LARGEST_SEED)


def _whole(name: str, entry: Any, least: int, most: int) -> int:
    number = whole_number(entry)
    if number is None:
        raise TypeError(
            f"{name} must be a whole number between {least} and {most}, got {short_repr(entry)}; "
            f"give one like {least}."
        )
    if not least <= number <= most:
        raise ValueError(f"{name} must be between {least} and {most} inclusive, got {number}.")
    return number


def checked_number(name: str, entry: Any, least: float, most: float) -> float:
    """A finite number in a range."""
    if isinstance(entry, bool) or not isinstance(entry, Real):
        raise TypeError(
            f"{name} must be a number, got {short_repr(entry)}; give one like {least:g}."
        )
    number = float(entry)
    if not (math.isfinite(number) and least <= number <= most):
        raise ValueError(f"{name} must be between {least:g} and {most:g}, got {number:g}.")
    return number


def checked_choice(name: str, entry: Any, known: tuple[str, ...], why: str = "") -> str:
    """One of several names; ``why`` says what decides which there are."""
    if isinstance(entry, str) and entry in known:
        return entry
    near = difflib.get_close_matches(str(entry), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"{name} must be one of {', '.join(known)}{why}, got {short_repr(entry)}{hint}"
    )


def check_extra(pipe: Any, extra: Mapping[str, Any], own: tuple[str, ...], who: str) -> None:
    """Refuses keywords that neither the panel nor the pipeline takes, before anything runs.

    Raises:
        TypeError: no pipeline, or an unknown keyword; the nearest is told.
    """
    parameters = checks.parameters_of(pipe, who)
    family = family_of(pipe)
    known = {*parameters, *(family.keywords() if family is not None else ()), *own}
    for name in extra:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(own)}."
            raise TypeError(f"{who} and {type(pipe).__name__} take no {name!r}; {hint}")


def vocabulary_of(embedded: bool) -> frozenset[str]:
    """The words that an embedded model learned; empty for models that know any word."""
    return critter_words if embedded else frozenset()


def usual_steps(pipe: Any, embedded: bool) -> int:
    """Steps of a picture: ten for embedded models, else what the weights were made for."""
    steps = int(origin_of(pipe).defaults.get("num_inference_steps", 20))
    return min(steps, 10) if embedded else steps


class WalkForm(Actions, ipywidgets.VBox):
    """Fields by the settings' names; a subclass makes them in ``_make`` and puts them in rows.

    Args:
        on_edit: called with a setting's name and what the reader made of it.
    """

    counted = ("picture", "pictures")

    def __init__(self, on_edit: Callable[[str, Any], None], **options: Any) -> None:
        self._on_edit, self._filling = on_edit, False
        self.make_actions()
        self._fields: dict[str, Any] = {}
        rows = self._make(**options)
        for name, field in self._fields.items():
            field.add_class(f"ldm-set-{name.replace('_', '-')}")
            if hasattr(field, "style") and hasattr(field.style, "description_width"):
                field.style.description_width = "initial"
            if not isinstance(field, EndField):
                field.observe(self._told(name), names=["value"])
        super().__init__([*rows, self.action_row(), self._message])
        self.add_class("ldm-form")

    def _make(self, **options: Any) -> list[ipywidgets.Widget]:
        """The rows; fields are put into ``_fields``."""
        raise NotImplementedError

    def _told(self, name: str) -> Callable[[Any], None]:
        def edited(change: Any) -> None:
            if not self._filling:
                self._on_edit(name, change["new"])

        return edited

    def fill(self, settings: Mapping[str, Any]) -> None:
        """Shows settings in the fields, without a call of ``on_edit``."""
        self._filling = True
        try:
            for name, value in settings.items():
                field = self._fields.get(name)
                if isinstance(field, EndField):
                    field.fill(value)
                elif field is not None and field.value != value:
                    field.value = value
        finally:
            self._filling = False

    def entries(self) -> dict[str, Any]:
        """What stands in the fields, right or wrong.

        Raises:
            TypeError, ValueError: an end is wrong (see ``EndField.standing``).
        """
        return {
            name: field.standing() if hasattr(field, "standing") else field.value
            for name, field in self._fields.items()
        }

    def seed_row(self) -> ipywidgets.Box:
        """The seed's field with its dice."""
        self._fields["seed"] = ipywidgets.IntText(description="Seed")
        dice = ipywidgets.Button(icon="random", tooltip="Throw dice: another seed")
        dice.add_class("ldm-small")
        dice.on_click(lambda _: self._on_dice())
        return row("ldm-seed", [self._fields["seed"], dice])

    def _on_dice(self) -> None:
        # Few digits: a class reads them aloud.
        self._fields["seed"].value = random.randrange(100_000)
