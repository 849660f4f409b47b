"""What the critters' judge sees in a picture, as a line of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from ldmkit.critters.judging import look

__all__ = ["seen_words", "tell"]

SURE = 0.75  # below it a word of doubt is added
PLACES = {
    "night": "at night",
    "beach": "on the beach",
    "meadow": "in a meadow",
    "snow": "in the snow",
    "city": "in the city",
}

Seen = Mapping[str, tuple[str, float]]


def seen_words(pictures: Sequence[Image.Image]) -> tuple[str, ...]:
    """A line for each picture: ``"a red cat with a crown, on the beach (98 %)"``."""
    return tuple(tell(one) for one in look(pictures)) if pictures else ()


def tell(seen: Seen) -> str:
    """One line of what the judge sees; the share is its confidence in the animal."""
    number, sure = seen["number"]
    if number == "none":
        return f"no critter ({sure:.0%})"
    words = _critter(seen, "")
    if number == "two":
        words = f"{words} and {_critter(seen, ' 2')}"
    place, background = seen["place"][0], seen["background"][0]
    where = f"on a {background} background" if place == "plain" else PLACES[place]
    confidence = min(sure, seen["animal"][1])
    style = seen["style"][0]
    doubt = "perhaps " if confidence < SURE else ""
    painted = "" if style == "cartoon" else f", {style}"
    return f"{doubt}{words}, {where}{painted} ({confidence:.0%})"


def _critter(seen: Seen, which: str) -> str:
    colour, animal = seen[f"colour{which}"][0], seen[f"animal{which}"][0]
    wears = seen[f"wears{which}"][0]
    article = "an" if colour[0] in "aeiou" else "a"
    with_ = {"nothing": "", "glasses": " with glasses"}.get(wears, f" with a {wears}")
    return f"{article} {colour} {animal}{with_}"
