"""The places behind the critters, in units of the picture's side.

Details that repeat (windows, flakes) sit on a grid of sixteenths of the picture: an autoencoder
whose latents are 16 × 16 meets the same cell again and again.
"""

from __future__ import annotations

from random import Random

from ldmkit.critters.pen import Colour, Pen, mix, oval, poly

BACKGROUND_RGB: dict[str, Colour] = {
    "red": (236, 104, 94),
    "orange": (250, 180, 112),
    "yellow": (253, 232, 146),
    "green": (152, 212, 134),
    "blue": (140, 194, 246),
    "purple": (186, 156, 228),
    "pink": (251, 202, 218),
    "gray": (188, 190, 198),
    "white": (250, 250, 247),
}
_NEON_DARK = {"gray": (40, 40, 46), "white": (88, 88, 94)}
_CELL = 1 / 16
_SKYLINES = (
    ((0, 3, 6), (3, 6, 9), (6, 10, 5), (10, 13, 8), (13, 16, 10)),
    ((0, 4, 9), (4, 7, 6), (7, 10, 8), (10, 13, 5), (13, 16, 8)),
    ((0, 3, 8), (3, 6, 5), (6, 9, 7), (9, 13, 9), (13, 16, 6)),
)


def draw_place(pen: Pen, place: str, background: str | None, rng: Random) -> None:
    """Fill the whole canvas with a place; ``background`` is the colour of a plain one."""
    pen.place()
    if place == "plain":
        _wall(pen, background or "white")
    else:
        _PLACES[place](pen, rng)


def _band(pen: Pen, top: float, bottom: float, fill: Colour) -> None:
    """A band over the whole width; in neon its upper edge glows."""
    pen.each(
        [poly(fill, (-0.1, top), (1.1, top), (1.1, bottom + 0.1), (-0.1, bottom + 0.1))],
        1.0 if pen.style == "neon" and top > 0 else 0.0,
    )


def _wall(pen: Pen, background: str) -> None:
    fill = BACKGROUND_RGB[background]
    if pen.style == "neon":
        dark = _NEON_DARK.get(background, mix((0, 0, 0), fill, 0.3))
        pen.image.paste(dark, (0, 0, *pen.image.size))
        return
    _band(pen, -0.1, 1.1, fill)


def _light(rng: Random) -> float:
    """Where sun or moon stands: left or right."""
    return 0.15 if rng.random() < 0.5 else 0.85


def _night(pen: Pen, rng: Random) -> None:
    sky: Colour = (36, 40, 92)
    _band(pen, -0.1, 1.1, sky)
    _band(pen, 0.84, 1.0, (26, 30, 62))
    x = _light(rng)
    pen.lights([oval(x, 0.15, 0.09, 0.09, (252, 240, 180))])
    pen.each([oval(x + 0.045, 0.125, 0.075, 0.075, sky)], 0)
    star: Colour = (255, 250, 214)
    for cx, cy in ((5, 1), (8, 2), (11, 1), (2, 7), (14, 7), (1, 11), (15, 11), (3, 4), (13, 4)):
        pen.lights([oval((cx + 0.5) * _CELL, (cy + 0.5) * _CELL, 0.014, 0.014, star)])


def _beach(pen: Pen, rng: Random) -> None:
    _band(pen, -0.1, 0.45, (150, 214, 248))
    _band(pen, 0.45, 0.66, (52, 132, 204))
    _band(pen, 0.66, 1.0, (242, 220, 156))
    pen.lights([oval(_light(rng), 0.15, 0.095, 0.095, (255, 216, 76))])


def _meadow(pen: Pen, rng: Random) -> None:
    _band(pen, -0.1, 0.6, (178, 226, 250))
    _band(pen, 0.6, 1.0, (112, 192, 84))
    shift = int(rng.random() * 2)
    petals: tuple[Colour, ...] = ((252, 96, 116), (255, 250, 240), (255, 226, 90))
    for i, (cx, cy) in enumerate(((1, 11), (14, 10), (2, 14), (13, 13), (5, 12), (10, 14))):
        x = ((cx + 8 * shift) % 16 + 0.5) * _CELL
        pen.lights([oval(x, (cy + 0.5) * _CELL, 0.024, 0.024, petals[i % 3])])


def _snow(pen: Pen, rng: Random) -> None:
    _band(pen, -0.1, 0.7, (166, 186, 216))
    _band(pen, 0.7, 1.0, (248, 250, 254))
    shift = int(rng.random() * 2)
    flakes = ((1, 1), (5, 2), (9, 0), (13, 2), (3, 5), (11, 4), (15, 6), (0, 8), (7, 1), (14, 9))
    for cx, cy in flakes:
        x = ((cx + 2 * shift) % 16 + 0.5) * _CELL
        pen.lights([oval(x, (cy + 0.5) * _CELL, 0.02, 0.02, (255, 255, 255))])


def _city(pen: Pen, rng: Random) -> None:
    _band(pen, -0.1, 1.1, (252, 196, 150))
    outline = 0.8 if pen.style == "neon" else 0.0
    for i, (left, right, height) in enumerate(_SKYLINES[int(rng.random() * 3)]):
        wall: Colour = (96, 100, 134) if i % 2 else (122, 124, 154)
        x0, x1, top = left * _CELL, right * _CELL, (15 - height) * _CELL
        pen.each([poly(wall, (x0, top), (x1, top), (x1, 1.1), (x0, 1.1))], outline)
        for column in range(left, right):
            for row in range(16 - height, 15, 2):
                x, y = (column + 0.5) * _CELL, (row + 0.5) * _CELL
                pen.lights([poly((255, 226, 128), *_square(x, y, 0.018))])
    _band(pen, 15 * _CELL, 1.0, (90, 88, 100))


def _square(x: float, y: float, r: float) -> tuple[tuple[float, float], ...]:
    return ((x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r))


_PLACES = {"night": _night, "beach": _beach, "meadow": _meadow, "snow": _snow, "city": _city}
