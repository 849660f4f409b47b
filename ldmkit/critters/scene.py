"""What a critter picture can contain: the values of each attribute, scenes, and what is held out.

A `Scene` is the exact truth of one drawing. The same class with ``None`` in places is what a
caption says (see `parse`). The words are in `language`, the pen in `draw`, the values in `world`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from ldmkit.critters import draw as drawing
from ldmkit.critters import language
from ldmkit.critters.world import (
    ANIMALS,
    BACKGROUNDS,
    COLOURS,
    MOODS,
    PLACES,
    SIDES,
    SIZES,
    STYLES,
    WEARS,
)

if TYPE_CHECKING:
    from PIL import Image

# The first salt that holds out 8-10 (animal, colour), 5-7 (animal, wears) and 2-3 (style, place)
# pairs, spread over the animals, and none of the captions that a first lesson wants ("a red cat").
_SALT = 100

_CRITTER_VALUES: Mapping[str, tuple[str, ...]] = {
    "animal": ANIMALS,
    "colour": COLOURS,
    "wears": WEARS,
    "mood": MOODS,
}
_SCENE_VALUES: Mapping[str, tuple[str, ...]] = {
    "place": PLACES,
    "background": BACKGROUNDS,
    "style": STYLES,
    "size": SIZES,
    "side": SIDES,
}


def _check(name: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(allowed)} or None, got {value!r}: choose one"
        )


@dataclass(frozen=True)
class Critter:
    """One animal of a scene; ``None`` is "not said".

    Attributes:
        animal: one of `ANIMALS`.
        colour: one of `COLOURS`.
        wears: one of `WEARS`.
        mood: one of `MOODS`.
    """

    animal: str | None = None
    colour: str | None = None
    wears: str | None = None
    mood: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in _CRITTER_VALUES.items():
            _check(name, getattr(self, name), allowed)


@dataclass(frozen=True)
class Scene:
    """One drawing's exact content, or what a caption says of it (``None``: not said).

    Attributes:
        critters: one critter, or two from left to right.
        place: one of `PLACES`; ``"plain"`` goes with a background colour.
        background: one of `BACKGROUNDS`, only where the place is plain.
        style: one of `STYLES`.
        size: one of `SIZES`; two critters are always ``"small"``.
        side: one of `SIDES`; two critters stand in the ``"centre"`` together.
    """

    critters: tuple[Critter, ...] = (Critter(),)
    place: str | None = None
    background: str | None = None
    style: str | None = None
    size: str | None = None
    side: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.critters) <= 2:
            raise ValueError(
                f"a scene holds one or two critters, got {len(self.critters)}: leave some out"
            )
        for name, allowed in _SCENE_VALUES.items():
            _check(name, getattr(self, name), allowed)
        if self.background is not None and self.place != "plain":
            raise ValueError(
                f"a background colour needs place='plain', got place={self.place!r}: drop one"
            )

    @classmethod
    def sample(cls, seed: int, held_out: bool | None = None) -> Scene:
        """Draw a scene at random; the same seed gives the same scene on every machine.

        Args:
            seed: any integer; from `EVALUATION_SEED` on it is for evaluation only.
            held_out: True for held-out combinations only, False for none, None as they come.

        Returns:
            A complete scene (no attribute is ``None`` but `background` of a real place).
        """
        rng = Random(f"scene {seed}")
        while True:
            scene = _sample(rng)
            if held_out is None or globals()["held_out"](scene) == held_out:
                return scene

    def caption(self, seed: int = 0) -> str:
        """Say this scene in words; the seed picks the phrasing and what is left unsaid."""
        return language.caption(self, seed)

    def draw(self, size: int = 64, seed: int = 0) -> Image.Image:
        """Draw this scene as an RGB picture; the seed moves what the scene leaves open.

        Args:
            size: width and height in pixels, 16 to 512.
            seed: where exactly the critter stands, which skyline, and the like.

        Returns:
            A ``size`` × ``size`` picture, the same bytes for the same seed and Pillow.

        Raises:
            ValueError: a size outside 16…512, or a scene with unsaid attributes.
        """
        return drawing.draw(self, size, seed)


def parse(text: str) -> Scene:
    """Read what a caption says; ``None`` is what it does not say.

    Adjectives belong to the animal after them, things worn to the animal before them.

    Args:
        text: a caption of known words, upper or lower case, up to `language.MAX_LENGTH` characters.

    Returns:
        A scene with ``None`` for each attribute that was not said.

    Raises:
        UnknownWords: a word outside `words`.
        TypeError: not a string.
        ValueError: too long, more than two animals, or two values for one attribute.
    """
    critters, rest = language.read(text)
    return Scene(critters=tuple(Critter(**said) for said in critters) or (Critter(),), **rest)


def held_out(scene: Scene) -> bool:
    """Whether a scene shows a combination that no model was ever trained on.

    About one in ten (animal, colour), (animal, wears) and (style, place) pairs are held out, fixed
    by sha256 of their names. ``None`` holds nothing out.
    """
    pairs = [("style", scene.style, scene.place, 10)]
    for critter in scene.critters:
        pairs.append(("colour", critter.animal, critter.colour, 10))
        if critter.wears != "nothing":
            pairs.append(("wears", critter.animal, critter.wears, 10))
    return any(_pair_held_out(*pair) for pair in pairs)


def _pair_held_out(kind: str, first: str | None, second: str | None, one_in: int) -> bool:
    if first is None or second is None or second == "plain" or first == "cartoon":
        return False
    digest = hashlib.sha256(f"critters {_SALT} {kind} {first} {second}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % one_in == 0


def _sample(rng: Random) -> Scene:
    two = rng.random() < 0.2
    critters = tuple(_sample_critter(rng) for _ in range(2 if two else 1))
    place = "plain" if rng.random() < 0.4 else _pick(rng, PLACES[1:])
    size, side = "small", "centre"
    if not two:
        size = _pick(rng, ("small", "medium", "medium", "medium", "big"))
        side = "centre" if size == "big" else _pick(rng, ("left", "centre", "centre", "right"))
    return Scene(
        critters=critters,
        place=place,
        background=_pick(rng, BACKGROUNDS) if place == "plain" else None,
        style="cartoon" if rng.random() < 0.5 else _pick(rng, STYLES[1:]),
        size=size,
        side=side,
    )


def _sample_critter(rng: Random) -> Critter:
    return Critter(
        animal=_pick(rng, ANIMALS),
        colour=_pick(rng, COLOURS),
        wears="nothing" if rng.random() < 0.3 else _pick(rng, WEARS[1:]),
        mood="neutral" if rng.random() < 0.3 else _pick(rng, MOODS[1:]),
    )


def _pick(rng: Random, values: Sequence[str]) -> str:
    # Random.random() is promised to stay the same between Python versions; choice() is not.
    return values[int(rng.random() * len(values))]
