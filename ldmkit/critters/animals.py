"""What tells one animal from another: skull, ears, markings, tail. Shapes only, no drawing.

Units of the critter (see `draw`): the head's half width is 1, y points down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ldmkit.critters.pen import Colour, Point, Shape, mix, oval, poly, turned

_WHITE: Colour = (255, 255, 255)
_PINK: Colour = (246, 150, 168)
_DARK: Colour = (48, 40, 54)
_BEAK: Colour = (250, 168, 40)


class Coat(NamedTuple):
    """The tones of one critter's colour."""

    base: Colour
    shade: Colour
    light: Colour


class Animal(NamedTuple):
    """One animal's parts, each drawn in this order, and where its face sits."""

    tail: list[Shape]
    head: list[Shape]  # share one outline
    marks: list[Shape]  # inside the head, without outlines
    nose: list[Shape]  # over the marks, outlined thinly
    eyes: tuple[Point, Point]
    mouth: Point
    eye: float  # eye radius
    hat: float  # how far a hat moves up


def coat(base: Colour) -> Coat:
    """Base, darker and lighter tone of a colour."""
    return Coat(base, mix(base, _DARK, 0.22), mix(base, _WHITE, 0.5))


def _mirror(x: float) -> tuple[float, float]:
    return -x, x


def _triangle(
    side: float, inner: float, outer: float, tip: Point, base_y: float, fill: Colour
) -> Shape:
    return poly(
        fill, (side * inner, base_y - 0.25), (side * tip[0], tip[1]), (side * outer, base_y)
    )


def cat(c: Coat) -> Animal:
    """Pointed ears, pink inside; a small pink nose; a curled tail."""
    ears = [_triangle(s, 0.15, 0.97, (0.86, -1.4), -0.25, c.base) for s in (-1, 1)]
    inner = [_triangle(s, 0.4, 0.84, (0.78, -1.12), -0.42, _PINK) for s in (-1, 1)]
    tail = [turned(0.95, 1.25, 0.2, 0.62, 22, c.shade), oval(1.2, 0.72, 0.22, 0.22, c.shade)]
    nose = [poly(_PINK, (-0.15, 0.18), (0.15, 0.18), (0.0, 0.34))]
    head = [*ears, oval(0, 0, 1.0, 0.84, c.base)]
    return Animal(tail, head, inner, nose, ((-0.42, -0.1), (0.42, -0.1)), (0, 0.47), 0.24, 0.0)


def dog(c: Coat) -> Animal:
    """Long hanging ears, a light muzzle, a big dark nose."""
    ears = [turned(s * 1.02, 0.12, 0.3, 0.72, -s * 14, c.shade) for s in (-1, 1)]
    tail = [turned(0.95, 1.1, 0.17, 0.5, 35, c.shade)]
    marks = [*ears, oval(0, 0.4, 0.5, 0.4, c.light)]
    nose = [oval(0, 0.22, 0.24, 0.16, _DARK)]
    head = [oval(0, 0, 0.95, 0.88, c.base), *ears]
    return Animal(tail, head, marks, nose, ((-0.38, -0.18), (0.38, -0.18)), (0, 0.52), 0.24, 0.02)


def rabbit(c: Coat) -> Animal:
    """Two tall ears, pink inside; a round white tail; front teeth."""
    ears = [turned(s * 0.55, -1.2, 0.27, 0.72, s * 14, c.base) for s in (-1, 1)]
    inner = [turned(s * 0.55, -1.2, 0.13, 0.52, s * 14, _PINK) for s in (-1, 1)]
    tail = [oval(0.8, 1.5, 0.28, 0.28, _WHITE)]
    marks = [*inner, oval(-0.16, 0.4, 0.24, 0.2, c.light), oval(0.16, 0.4, 0.24, 0.2, c.light)]
    nose = [oval(0, 0.22, 0.13, 0.1, _PINK)]
    head = [*ears, oval(0, 0, 0.9, 0.86, c.base)]
    return Animal(tail, head, marks, nose, ((-0.4, -0.12), (0.4, -0.12)), (0, 0.48), 0.24, 0.06)


def bear(c: Coat) -> Animal:
    """Round ears, a round light muzzle with a dark nose."""
    ears = [oval(x, -0.68, 0.38, 0.38, c.base) for x in _mirror(0.74)]
    inner = [oval(x, -0.68, 0.2, 0.2, c.light) for x in _mirror(0.74)]
    marks = [*inner, oval(0, 0.36, 0.42, 0.36, c.light)]
    nose = [oval(0, 0.2, 0.18, 0.12, _DARK)]
    head = [*ears, oval(0, 0, 1.0, 0.88, c.base)]
    return Animal([], head, marks, nose, ((-0.44, -0.16), (0.44, -0.16)), (0, 0.48), 0.22, 0.0)


def fox(c: Coat) -> Animal:
    """Tall ears with dark tips, white cheeks, a pointed chin, a bushy tail with a white end."""
    ears = [_triangle(s, 0.12, 1.05, (0.98, -1.5), -0.1, c.base) for s in (-1, 1)]
    tips = [poly(_DARK, (s * 0.66, -1.16), (s * 0.98, -1.5), (s * 1.01, -1.0)) for s in (-1, 1)]
    cheeks = [
        poly(_WHITE, (s * 0.95, 0.12), (s * 0.1, 0.42), (0, 0.92), (s * 0.5, 0.62)) for s in (-1, 1)
    ]
    tail = [turned(1.1, 1.15, 0.32, 0.66, 24, c.base), oval(1.36, 0.66, 0.22, 0.24, _WHITE)]
    skull = poly(
        c.base,
        (-0.6, -0.72),
        (0, -0.84),
        (0.6, -0.72),
        (0.98, -0.1),
        (0.97, 0.14),
        (0.5, 0.64),
        (0, 0.96),
        (-0.5, 0.64),
        (-0.97, 0.14),
        (-0.98, -0.1),
    )
    nose = [oval(0, 0.48, 0.17, 0.12, _DARK)]
    return Animal(
        tail,
        [*ears, skull],
        [*tips, *cheeks],
        nose,
        ((-0.4, -0.08), (0.4, -0.08)),
        (0, 0.7),
        0.23,
        0.0,
    )


def owl(c: Coat) -> Animal:
    """Ear tufts, pale discs around the eyes, an orange beak, wings (the body draws them)."""
    tufts = [_triangle(s, 0.2, 0.95, (0.95, -1.1), -0.35, c.base) for s in (-1, 1)]
    discs = [oval(x, -0.08, 0.5, 0.5, c.light) for x in _mirror(0.44)]
    nose = [poly(_BEAK, (-0.19, 0.2), (0.19, 0.2), (0.0, 0.56))]
    wings = [turned(s * 0.74, 1.2, 0.24, 0.56, s * 16, c.base) for s in (-1, 1)]
    head = [*tufts, oval(0, 0, 1.0, 0.86, c.base)]
    return Animal(wings, head, discs, nose, ((-0.44, -0.08), (0.44, -0.08)), (0, 0.68), 0.29, 0.0)


def frog(c: Coat) -> Animal:
    """A wide head with the eyes on top of it."""
    bumps = [oval(x, -0.72, 0.42, 0.42, c.base) for x in _mirror(0.56)]
    marks = [oval(0, 0.48, 0.72, 0.32, c.light)]
    nose = [oval(x, 0.08, 0.05, 0.04, _DARK) for x in _mirror(0.13)]
    head = [*bumps, oval(0, 0.08, 1.12, 0.76, c.base)]
    return Animal([], head, marks, nose, ((-0.56, -0.74), (0.56, -0.74)), (0, 0.4), 0.3, -0.36)


def pig(c: Coat) -> Animal:
    """Folded ears, a big snout with two nostrils, a curly tail."""
    ears = [poly(c.shade, (s * 0.3, -0.72), (s * 0.98, -1.12), (s * 1.0, -0.34)) for s in (-1, 1)]
    snout = [oval(0, 0.26, 0.4, 0.28, c.light)]
    nostrils = [oval(x, 0.26, 0.075, 0.12, _DARK) for x in _mirror(0.15)]
    tail = [oval(0.9, 1.25, 0.2, 0.2, c.shade)]
    head = [oval(0, 0, 1.0, 0.86, c.base), *ears]
    return Animal(
        tail, head, ears, [*snout, *nostrils], ((-0.45, -0.2), (0.45, -0.2)), (0, 0.66), 0.22, 0.0
    )


ANIMAL: dict[str, Callable[[Coat], Animal]] = {
    "cat": cat,
    "dog": dog,
    "rabbit": rabbit,
    "bear": bear,
    "fox": fox,
    "owl": owl,
    "frog": frog,
    "pig": pig,
}
