"""The critters' world as data: the values of each attribute, and what hides what.

Captions (`language`), drawings (`draw`) and scenes (`scene`) are made of it; it imports none of
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldmkit.critters.scene import Scene

VERSION = "1"  # grammar, drawing and judge together; the weights' folders name it

EVALUATION_SEED = 500_000  # seeds from here on are for evaluation: nothing trains on them

ANIMALS = ("cat", "dog", "rabbit", "bear", "fox", "owl", "frog", "pig")
COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "gray",
    "black",
    "white",
)
WEARS = (
    "nothing",
    "top hat",
    "crown",
    "party hat",
    "glasses",
    "bow tie",
    "scarf",
    "flower",
)
MOODS = ("neutral", "happy", "sad", "surprised", "sleepy")
PLACES = ("plain", "night", "beach", "meadow", "snow", "city")
BACKGROUNDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "gray", "white")
STYLES = ("cartoon", "pixel art", "pencil sketch", "watercolor", "neon")
SIZES = ("small", "medium", "big")
SIDES = ("left", "centre", "right")


def hidden(scene: Scene) -> frozenset[str]:
    """Attributes that this scene's style, size or number hides: never said, never judged."""
    names = set()
    if scene.size == "small" or len(scene.critters) == 2:
        names.add("mood")  # a face is too few pixels there
    if len(scene.critters) == 2:
        names |= {"size", "side"}
    return frozenset(names)
