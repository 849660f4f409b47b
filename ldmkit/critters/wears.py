"""The things that a critter wears, drawn over it in the critter's own units."""

from __future__ import annotations

from ldmkit.critters.animals import Animal
from ldmkit.critters.pen import Colour, Pen, oval, poly

_FELT: Colour = (62, 58, 84)
_BAND: Colour = (214, 52, 60)
_GOLD: Colour = (255, 206, 56)
_TEAL: Colour = (52, 186, 184)
_PETAL: Colour = (255, 108, 158)
_SCARF: Colour = (40, 150, 160)
_CREAM: Colour = (255, 246, 214)
_FRAME: Colour = (40, 34, 50)


def top_hat(pen: Pen, animal: Animal) -> None:
    """A tall dark hat with a red band."""
    y = animal.hat
    pen.group(
        [
            poly(_FELT, (-0.5, y - 1.62), (0.5, y - 1.62), (0.46, y - 0.78), (-0.46, y - 0.78)),
            oval(0, y - 0.76, 0.84, 0.15, _FELT),
        ]
    )
    pen.each(
        [poly(_BAND, (-0.48, y - 1.06), (0.48, y - 1.06), (0.46, y - 0.84), (-0.46, y - 0.84))], 0
    )


def crown(pen: Pen, animal: Animal) -> None:
    """A golden crown with three points and jewels."""
    y = animal.hat
    pen.each(
        [
            poly(
                _GOLD,
                (-0.62, y - 0.66),
                (-0.72, y - 1.4),
                (-0.32, y - 1.08),
                (0, y - 1.52),
                (0.32, y - 1.08),
                (0.72, y - 1.4),
                (0.62, y - 0.66),
            )
        ]
    )
    for x, gem in ((-0.36, _TEAL), (0.0, _BAND), (0.36, _TEAL)):
        pen.each([oval(x, y - 0.84, 0.11, 0.11, gem)], 0)


def party_hat(pen: Pen, animal: Animal) -> None:
    """A striped teal cone with a pompom."""
    y = animal.hat
    pen.each([poly(_TEAL, (-0.52, y - 0.68), (0, y - 1.72), (0.52, y - 0.68))])
    pen.each(
        [
            poly(_CREAM, (-0.42, y - 0.88), (0.3, y - 1.12), (0.4, y - 0.92), (-0.5, y - 0.7)),
            poly(_CREAM, (-0.25, y - 1.22), (0.14, y - 1.44), (0.23, y - 1.26), (-0.32, y - 1.06)),
        ],
        0,
    )
    pen.each([oval(0, y - 1.72, 0.18, 0.18, _BAND)])


def glasses(pen: Pen, animal: Animal) -> None:
    """Two thick round frames; the eyes stay visible."""
    frame = (230, 236, 255) if pen.style == "neon" else _FRAME
    rim = animal.eye + 0.17
    (x0, y0), (x1, y1) = animal.eyes
    for x, y in animal.eyes:
        pen.arc(x, y, rim, rim, 0, 360, frame, 1.5)
    pen.stroke([(x0 + rim, y0), (x1 - rim, y1)], frame, 1.5)
    for x, end in ((x0 - rim, -0.98), (x1 + rim, 0.98)):
        if abs(x) < abs(end):
            pen.stroke([(x, y0), (end, y0 - 0.08)], frame, 1.5)


def bow_tie(pen: Pen, animal: Animal) -> None:
    """A red bow under the chin."""
    pen.group(
        [
            poly(_BAND, (0, 1.0), (-0.62, 0.72), (-0.62, 1.32)),
            poly(_BAND, (0, 1.0), (0.62, 0.72), (0.62, 1.32)),
        ]
    )
    pen.each([oval(0, 1.01, 0.16, 0.17, _BAND)])


def scarf(pen: Pen, animal: Animal) -> None:
    """A broad teal scarf with cream stripes and a hanging end."""
    pen.group(
        [
            poly(_SCARF, (0.2, 0.9), (0.66, 0.9), (0.74, 1.72), (0.3, 1.72)),
            oval(0, 0.92, 0.86, 0.24, _SCARF),
        ]
    )
    pen.each(
        [
            poly(_CREAM, (0.31, 1.36), (0.69, 1.36), (0.71, 1.54), (0.33, 1.54)),
            poly(_CREAM, (-0.5, 0.74), (-0.28, 0.7), (-0.3, 1.14), (-0.5, 1.1)),
            poly(_CREAM, (0.06, 0.7), (0.26, 0.7), (0.26, 1.14), (0.06, 1.14)),
        ],
        0,
    )


def flower(pen: Pen, animal: Animal) -> None:
    """A big pink flower beside one ear."""
    x, y = -0.66, -0.66 + animal.hat
    petals = ((0, -0.26), (0.25, -0.08), (0.15, 0.21), (-0.15, 0.21), (-0.25, -0.08))
    pen.group([oval(x + dx, y + dy, 0.2, 0.2, _PETAL) for dx, dy in petals])
    pen.each([oval(x, y, 0.15, 0.15, _GOLD)], 0)


WEAR = {
    "top hat": top_hat,
    "crown": crown,
    "party hat": party_hat,
    "glasses": glasses,
    "bow tie": bow_tie,
    "scarf": scarf,
    "flower": flower,
}
