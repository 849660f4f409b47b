"""Captions of scenes, and what a caption says: a small grammar, both ways.

`caption` says a scene in one of several phrasings and leaves some things unsaid; `read` reads any
sentence made of known words. What a style, size or number hides is never said (`world.hidden`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import prod
from random import Random
from typing import TYPE_CHECKING

from ldmkit.critters.world import BACKGROUNDS, COLOURS, hidden

if TYPE_CHECKING:
    from ldmkit.critters.scene import Critter, Scene

MAX_LENGTH = 1000  # characters; the longest caption has about 120

# Each phrase says one attribute's value; longer phrases are tried first.
_PHRASES: dict[tuple[str, ...], tuple[str, str]] = {}


def _phrase(attribute: str, value: str, *phrases: str) -> None:
    for phrase in phrases:
        _PHRASES[tuple(phrase.split())] = (attribute, value)


for _animal in ("cat", "dog", "bear", "fox", "owl", "frog", "pig"):
    _phrase("animal", _animal, _animal)
_phrase("animal", "rabbit", "rabbit", "bunny")
for _colour in COLOURS:
    _phrase("colour", _colour, _colour)
_phrase("colour", "gray", "grey")
for _thing in ("top hat", "crown", "party hat", "glasses", "bow tie", "scarf", "flower"):
    _phrase("wears", _thing, _thing)
_phrase("mood", "happy", "happy", "smiling")
_phrase("mood", "sad", "sad", "crying")
_phrase("mood", "surprised", "surprised")
_phrase("mood", "sleepy", "sleepy", "sleeping")
_phrase("place", "night", "at night", "night")
_phrase("place", "beach", "beach")
_phrase("place", "meadow", "meadow")
_phrase("place", "snow", "snow")
_phrase("place", "city", "city")
_phrase("style", "cartoon", "cartoon")
_phrase("style", "pixel art", "pixel art")
_phrase("style", "pencil sketch", "pencil sketch", "pencil drawing", "sketch")
_phrase("style", "watercolor", "watercolor", "watercolour")
_phrase("style", "neon", "neon", "neon picture")
_phrase("size", "small", "small", "little")
_phrase("size", "big", "big", "large")
_phrase("side", "left", "left")
_phrase("side", "right", "right")
for _colour in BACKGROUNDS:
    _phrase("background", _colour, f"{_colour} background")
_phrase("background", "gray", "grey background")

_FILLERS = frozenset(
    ("a", "an", "and", "at", "in", "is", "of", "on", "picture", "the", "wearing", "with")
)
_LONGEST = max(len(p) for p in _PHRASES)

words: frozenset[str] = _FILLERS | {word for phrase in _PHRASES for word in phrase}
"""Every word that the embedded models were trained on."""


class UnknownWords(ValueError):
    """A caption holds words that the embedded world has no meaning for.

    Attributes:
        unknown: the words, in their order.
        nearest: for each, the closest known word or None.
    """

    def __init__(self, unknown: Sequence[str]) -> None:
        self.unknown = tuple(unknown)
        self.nearest: Mapping[str, str | None] = {
            w: next(iter(get_close_matches(w, sorted(words), 1)), None) for w in self.unknown
        }
        hints = [f"{w!r}" + (f" (nearest: {n!r})" if n else "") for w, n in self.nearest.items()]
        super().__init__(
            "a caption may only use words of ldmkit.critters.words; unknown: "
            + ", ".join(hints[:8])
            + (f" and {len(hints) - 8} more" if len(hints) > 8 else "")
        )


# --- scene -> caption --------------------------------------------------------------------------

_STYLE_BEFORE = {
    "cartoon": ("a cartoon of", "cartoon of"),
    "pixel art": ("pixel art of", "a pixel art picture of"),
    "pencil sketch": ("a pencil sketch of", "pencil sketch of", "a pencil drawing of"),
    "watercolor": ("a watercolor of", "watercolor of"),
    "neon": ("a neon picture of", "neon picture of"),
}
_STYLE_AFTER = {
    "cartoon": "cartoon",
    "pixel art": "pixel art",
    "pencil sketch": "pencil sketch",
    "watercolor": "watercolor",
    "neon": "neon",
}
_PLACE = {
    "night": "at night",
    "beach": "on the beach",
    "meadow": "in a meadow",
    "snow": "in the snow",
    "city": "in the city",
}
_SAID = {
    "colour": 0.92,
    "wears": 0.85,
    "mood": 0.75,
    "size": 0.8,
    "side": 0.8,
    "place": 0.8,
    "style": 0.92,
}
OMISSIBLE = ("wears", "mood")  # what a recipe may leave out of captions (`recipes.captioning`)
_ALSO = {
    "happy": "smiling",
    "sad": "crying",
    "sleepy": "sleeping",
    "small": "little",
    "big": "large",
    "gray": "grey",
    "rabbit": "bunny",
}


def caption(scene: Scene, seed: int = 0) -> str:
    """Say a scene in words.

    Args:
        scene: what to say; ``None`` stays unsaid.
        seed: picks the phrasing, and what is left unsaid so that models learn to fill it in.

    Returns:
        A sentence of `words`; `scene.parse` of it gives back exactly what was said.
    """
    rng = Random(f"caption {seed}")
    hide = hidden(scene)
    parts = " and ".join(_critter(rng, c, scene, hide) for c in scene.critters)
    if scene.side in ("left", "right") and "side" not in hide and _says(rng, "side"):
        parts += f" on the {scene.side}"
    if scene.place is not None and _says(rng, "place"):
        plain = _article(f"{_also(rng, scene.background)} background")
        parts += " " + (_PLACE.get(scene.place) or f"on {plain}")
    return _with_style(rng, parts, scene.style)


def silence(scene: Scene, omitted: float = 0.0) -> float:
    """How probable it is that `caption` says nothing of a scene but its animals.

    What goes without saying is what stays when nothing is said: a critter without a hat is more
    probably passed over in silence than one with a hat.

    Args:
        scene: ``None`` is silent for certain.
        omitted: how probably what a critter wears, or its mood, is dropped from a caption that
            would say it, 0 … 1.

    Returns:
        0 … 1, over the seeds of `caption`.
    """
    hide = hidden(scene)
    sayable = ["place"] * (scene.place is not None)
    sayable += ["side"] * (scene.side in ("left", "right"))
    for critter in scene.critters:
        sayable += ["size"] * (scene.size in ("small", "big"))
        sayable += ["mood"] * (critter.mood not in (None, "neutral"))
        sayable += ["colour"] * (critter.colour is not None)
        sayable += ["wears"] * (critter.wears not in (None, "nothing"))
    style = 0.0 if scene.style is None else _style_said(scene.style)
    kept = dict.fromkeys(OMISSIBLE, 1 - omitted)
    said = [_SAID[name] * kept.get(name, 1.0) for name in sayable if name not in hide]
    return prod(1 - p for p in said) * (1 - style)


def _style_said(style: str) -> float:
    # Cartoon is what an unsaid style mostly means, so it is said seldom.
    return 0.15 if style == "cartoon" else _SAID["style"]


def _with_style(rng: Random, parts: str, style: str | None) -> str:
    if style is None or rng.random() >= _style_said(style):
        return parts
    if rng.random() < 0.75:
        return f"{_choose(rng, _STYLE_BEFORE[style])} {parts}"
    return f"{parts}, {_STYLE_AFTER[style]}"


def _critter(rng: Random, critter: Critter, scene: Scene, hide: frozenset[str]) -> str:
    adjectives = []
    if scene.size in ("small", "big") and "size" not in hide and _says(rng, "size"):
        adjectives.append(_also(rng, scene.size))
    if critter.mood not in (None, "neutral") and "mood" not in hide and _says(rng, "mood"):
        adjectives.append(_also(rng, critter.mood))
    if critter.colour is not None and _says(rng, "colour"):
        adjectives.append(_also(rng, critter.colour))
    text = " ".join([*adjectives, _also(rng, critter.animal or "cat")])
    text = _article(text)
    if critter.wears not in (None, "nothing") and _says(rng, "wears"):
        article = "" if critter.wears == "glasses" else "a "
        text += f" {_choose(rng, ('with', 'wearing'))} {article}{critter.wears}"
    return text


def _article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _says(rng: Random, attribute: str) -> bool:
    return rng.random() < _SAID[attribute]


def _also(rng: Random, value: str | None) -> str:
    """The value's name, one time in five its other name."""
    return _ALSO[value] if value in _ALSO and rng.random() < 0.2 else str(value)


def _choose(rng: Random, values: Sequence[str]) -> str:
    return values[int(rng.random() * len(values))]


# --- caption -> scene --------------------------------------------------------------------------


def read(text: str) -> tuple[list[dict[str, str]], dict[str, str]]:
    """What a caption says: of each critter, and of the whole picture. `scene.parse` makes a scene.

    Raises:
        UnknownWords: a word outside `words`.
        TypeError: not a string.
        ValueError: too long, more than two animals, or two values for one attribute.
    """
    if not isinstance(text, str):
        raise TypeError(f"a caption must be a string, got {type(text).__name__}: pass text")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a caption may have {MAX_LENGTH} characters, got {len(text)}: shorten it")
    tokens = re.findall(r"[^\s,.;:!?]+", text.lower())
    unknown = [t for t in tokens if t not in words]
    if unknown:
        raise UnknownWords(unknown)
    return _Reader(text).read(tokens)


class _Reader:
    """Collects what the phrases of one caption say."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.scene: dict[str, str] = {}
        self.waiting: dict[str, str] = {}  # adjectives before their animal
        self.critters: list[dict[str, str]] = []

    def read(self, tokens: Sequence[str]) -> tuple[list[dict[str, str]], dict[str, str]]:
        i = 0
        while i < len(tokens):
            for length in range(min(_LONGEST, len(tokens) - i), 0, -1):
                phrase = tuple(tokens[i : i + length])
                if phrase in _PHRASES:
                    self._take(*_PHRASES[phrase])
                    break
            else:
                length = 1
                if tokens[i] not in _FILLERS:  # "top" without its hat
                    raise UnknownWords([tokens[i]])
            i += length
        self._settle()
        return self.critters, self.scene

    def _take(self, attribute: str, value: str) -> None:
        if attribute == "animal":
            if len(self.critters) == 2:
                raise ValueError(
                    f"a caption may name two animals, got more in {self.text!r}: leave some out"
                )
            self.critters.append({**self.waiting, "animal": value})
            self.waiting = {}
        elif attribute in ("colour", "mood"):
            self._set(self.waiting, attribute, value)
        elif attribute == "wears":
            self._set(self.critters[-1] if self.critters else self.waiting, attribute, value)
        elif attribute == "background":
            self._set(self.scene, "place", "plain")
            self._set(self.scene, "background", value)
        else:
            self._set(self.scene, attribute, value)

    def _set(self, target: dict[str, str], attribute: str, value: str) -> None:
        if target.setdefault(attribute, value) != value:
            raise ValueError(
                f"a caption may give one {attribute}, got {target[attribute]!r} and {value!r} "
                f"in {self.text!r}: keep one"
            )

    def _settle(self) -> None:
        if self.waiting:  # "a cat that is red", or no animal at all
            self.critters = self.critters or [{}]
            for attribute, value in self.waiting.items():
                self._set(self.critters[-1], attribute, value)
