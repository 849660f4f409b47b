"""Draw a `Scene`: first the place, then one or two critters, then the style's surface.

Local units of a critter: (0, 0) is the middle of its head, 1 is the head's half width, y points
down; its feet stand at y = 1.9.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from ldmkit.check import whole
from ldmkit.critters.animals import ANIMAL, Animal, coat
from ldmkit.critters.pen import INK, Colour, Pen, Point, finish, mix, oval, poly
from ldmkit.critters.places import BACKGROUND_RGB, draw_place
from ldmkit.critters.wears import WEAR
from ldmkit.critters.world import SEEDS

if TYPE_CHECKING:
    from PIL import Image

    from ldmkit.critters.scene import Critter, Scene

RGB: dict[str, Colour] = {
    "red": (222, 50, 46),
    "orange": (246, 138, 34),
    "yellow": (252, 212, 62),
    "green": (74, 172, 76),
    "blue": (56, 116, 222),
    "purple": (138, 80, 200),
    "pink": (252, 150, 190),
    "brown": (128, 82, 50),
    "gray": (150, 152, 160),
    "black": (46, 44, 54),
    "white": (250, 250, 248),
}
_EYE_WHITE: Colour = (255, 255, 255)
_PUPIL: Colour = (30, 26, 36)
_TONGUE: Colour = (224, 74, 84)
_MOUTH: Colour = (112, 26, 42)
_TEAR: Colour = (92, 190, 250)
_UNIT = {"small": 0.15, "medium": 0.225, "big": 0.285}
_X = {"left": 0.29, "centre": 0.5, "right": 0.71}
_FEET = 1.9


def draw(scene: Scene, size: int = 64, seed: int = 0) -> Image.Image:
    """Draw a scene; see `Scene.draw`."""
    size = whole("size", size, 16, 512)
    _require_complete(scene)
    rng = Random(f"draw {whole('seed', seed, *SEEDS)}")
    pen = Pen(size * (4 if size <= 128 else 2), scene.style or "cartoon")
    draw_place(pen, scene.place or "plain", scene.background, rng)
    for critter, origin, unit in _stand(scene, rng):
        pen.place(origin, unit)
        if scene.place == "plain":
            ground = BACKGROUND_RGB[scene.background or "white"]
            pen.each([oval(0, 1.86, 0.95, 0.16, mix(ground, INK, 0.22))], outline=0)
        _draw_critter(pen, critter)
    return finish(pen.image, size, pen.style)


def _require_complete(scene: Scene) -> None:
    said = {name: getattr(scene, name) for name in ("place", "style", "size", "side")}
    if scene.place == "plain":
        said["background"] = scene.background
    for critter in scene.critters:
        for name in ("animal", "colour", "wears", "mood"):
            said[name] = said.get(name, "said") and getattr(critter, name)
    missing = [name for name, value in said.items() if value is None]
    if missing:
        raise ValueError(
            f"a drawing needs every attribute, but {', '.join(missing)} is unsaid: "
            "set it, or take a whole scene from Scene.sample(seed)."
        )


def _stand(scene: Scene, rng: Random) -> list[tuple[Critter, Point, float]]:
    """Each critter with the place of its head and its unit, moved a little by chance."""
    grow = 1 + 0.08 * (rng.random() - 0.5)
    dx, dy = 0.03 * (rng.random() - 0.5), 0.03 * (rng.random() - 0.5)
    unit = _UNIT[scene.size or "medium"] * grow
    xs = [_X[scene.side or "centre"] + dx]
    if len(scene.critters) == 2:
        unit, xs = 0.17 * grow, [0.265 + dx, 0.735 + dx]
    y = 0.62 if scene.size == "big" else 0.955 - _FEET * unit
    return [(critter, (x, y + dy), unit) for critter, x in zip(scene.critters, xs, strict=True)]


def _draw_critter(pen: Pen, critter: Critter) -> None:
    tones = coat(RGB[critter.colour or "gray"])
    animal = ANIMAL[critter.animal or "cat"](tones)
    pen.group(animal.tail)
    pen.group(
        [
            oval(-0.36, 1.78, 0.3, 0.17, tones.shade),
            oval(0.36, 1.78, 0.3, 0.17, tones.shade),
            oval(0, 1.25, 0.74, 0.62, tones.shade),
        ]
    )
    pen.each([oval(0, 1.38, 0.42, 0.42, tones.light)], outline=0)
    pen.group(animal.head)
    pen.each(animal.marks, outline=0)
    if critter.wears in ("bow tie", "scarf"):
        WEAR[critter.wears](pen, animal)
    _face(pen, animal, critter.mood or "neutral", tones.base)
    if critter.animal == "rabbit":
        pen.each([poly(_EYE_WHITE, (-0.12, 0.56), (0.12, 0.56), (0.12, 0.78), (-0.12, 0.78))], 0.5)
    if critter.wears in ("top hat", "crown", "party hat", "glasses", "flower"):
        WEAR[critter.wears](pen, animal)


def _face(pen: Pen, animal: Animal, mood: str, base: Colour) -> None:
    ink = pen.ink_on(base)
    for x, y in animal.eyes:
        _EYES[mood](pen, x, y, animal.eye, ink)
    _MOUTHS[mood](pen, *animal.mouth)
    pen.each(animal.nose, 0.5)


# --- moods: eyes and mouths far enough apart to be told at 64 pixels ---------------------------


def _open_eye(pen: Pen, x: float, y: float, r: float, ink: Colour) -> None:
    pen.each([oval(x, y, r, r, _EYE_WHITE)], 0.5)
    _dot(pen, x, y + 0.02, r * 0.62)


def _dot(pen: Pen, x: float, y: float, r: float) -> None:
    # Pupils keep their darkness in every style: a pale pupil is no eye.
    shape = oval(x, y, r, r, _PUPIL)
    pen.plain([shape, oval(x - r * 0.3, y - r * 0.35, r * 0.3, r * 0.3, _EYE_WHITE)])


def _happy_eye(pen: Pen, x: float, y: float, r: float, ink: Colour) -> None:
    pen.arc(x, y + 0.12, r * 0.95, r * 1.25, 190, 350, ink, 1.7)


def _sad_eye(pen: Pen, x: float, y: float, r: float, ink: Colour) -> None:
    _open_eye(pen, x, y + 0.05, r * 0.9, ink)
    side = 1 if x > 0 else -1
    pen.stroke([(x - side * r, y - r * 1.7), (x + side * r, y - r * 1.05)], ink, 1.5)
    if side > 0:
        pen.each([oval(x + 0.12, y + r * 2.1, 0.15, 0.24, _TEAR)], 0.5)


def _wide_eye(pen: Pen, x: float, y: float, r: float, ink: Colour) -> None:
    pen.each([oval(x, y, r * 1.35, r * 1.35, _EYE_WHITE)], 0.7)
    _dot(pen, x, y, r * 0.5)


def _closed_eye(pen: Pen, x: float, y: float, r: float, ink: Colour) -> None:
    pen.arc(x, y - 0.06, r * 1.05, r * 0.9, 10, 170, ink, 1.7)


def _smile(pen: Pen, x: float, y: float) -> None:
    pen.plain(
        [
            poly(
                _MOUTH,
                (x - 0.4, y - 0.06),
                (x + 0.4, y - 0.06),
                (x + 0.26, y + 0.2),
                (x, y + 0.3),
                (x - 0.26, y + 0.2),
            ),
            oval(x, y + 0.17, 0.17, 0.1, _TONGUE),
        ]
    )


def _flat(pen: Pen, x: float, y: float) -> None:
    pen.arc(x, y - 0.08, 0.22, 0.14, 20, 160, pen.mouth_ink, 1.3)


def _frown(pen: Pen, x: float, y: float) -> None:
    pen.arc(x, y + 0.2, 0.28, 0.22, 200, 340, pen.mouth_ink, 1.6)


def _round_mouth(pen: Pen, x: float, y: float) -> None:
    pen.plain([oval(x, y + 0.1, 0.19, 0.23, _MOUTH)])


def _yawn(pen: Pen, x: float, y: float) -> None:
    pen.plain([oval(x, y + 0.05, 0.12, 0.07, _MOUTH)])


_EYES = {
    "neutral": _open_eye,
    "happy": _happy_eye,
    "sad": _sad_eye,
    "surprised": _wide_eye,
    "sleepy": _closed_eye,
}
_MOUTHS = {
    "neutral": _flat,
    "happy": _smile,
    "sad": _frown,
    "surprised": _round_mouth,
    "sleepy": _yawn,
}
