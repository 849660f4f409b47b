"""What changed from one picture to the next, and what stayed, told by the critters' judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from ldmkit.critters.judging import look
from ldmkit.critters.scene import Critter, Scene
from ldmkit.critters.world import hidden

__all__ = ["changes", "tell_changes", "visible"]

Seen = Mapping[str, tuple[str, float]]

_PLACES = ("place", "background", "style", "size", "side")
_OWN = ("animal", "colour", "wears", "mood")


def changes(before: Image.Image, after: Image.Image) -> dict[str, tuple[str, str | None]]:
    """What the judge sees in two pictures, for each thing that can be seen in the first.

    Args:
        before: a picture of a critter.
        after: the same, edited.

    Returns:
        Attribute to its two values; equal ones stayed. What can't be seen in the second (a face
        too small for a mood) is ``None`` there.
    """
    first, second = look([before, after])
    then, now = visible(first), visible(second)
    return {name: (value, now.get(name)) for name, value in then.items()}


def tell_changes(pictures: Sequence[Image.Image]) -> tuple[str, ...]:
    """A line per picture: ``"wears: nothing → crown; kept animal, colour, place"``.

    Each is compared with the first one, of which the line says what is seen.
    """
    seen = [visible(one) for one in look(pictures)] if pictures else []
    return tuple(_line(seen[0], now, first_one=i == 0) for i, now in enumerate(seen))


def visible(seen: Seen) -> dict[str, str]:
    """What the judge sees, less what style, size and number hide."""
    number = seen["number"][0]
    if number == "none":
        return {"number": number}
    two = number == "two"
    values = {name: seen[name][0] for name in (*_PLACES, *_OWN)}
    if values["place"] != "plain":
        del values["background"]
    scene = {name: values.get(name) for name in _PLACES}
    hide = hidden(Scene(critters=(Critter(),) * (2 if two else 1), **scene))
    kept = {name: value for name, value in values.items() if name not in hide}
    if two:
        kept |= {name: seen[name][0] for name in ("animal 2", "colour 2", "wears 2")}
    return {"number": number, **kept}


def _line(first: Mapping[str, str], now: Mapping[str, str], *, first_one: bool = False) -> str:
    if first_one:
        return ", ".join(f"{name} {value}" for name, value in first.items())
    changed = [
        f"{name}: {value} → {now.get(name, 'hidden')}"
        for name, value in first.items()
        if now.get(name) != value
    ]
    kept = [name for name, value in first.items() if now.get(name) == value]
    parts = [*changed, f"kept {', '.join(kept)}" if kept else "kept nothing"]
    return "; ".join(parts)
