"""A pen that draws outlined shapes on a supersampled canvas in one of five styles.

Every shape is given in units of the picture's side (0…1). A style changes a shape's fill and
outline (`Pen.tones`) while drawing, and the whole picture afterwards (`finish`). Textures repeat
every 4 pixels of a 64-pixel picture, the autoencoder's cell: it can learn them once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]

INK: Colour = (44, 36, 52)
PAPER: Colour = (252, 250, 244)
_GRAPHITE: Colour = (92, 88, 96)
_NIGHT: Colour = (14, 12, 26)
_LINE = {
    "cartoon": 0.017,
    "pixel art": 0.026,
    "pencil sketch": 0.018,
    "watercolor": 0.015,
    "neon": 0.02,
}


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """Blend two colours: ``a`` at t = 0, ``b`` at t = 1."""
    return (
        round(a[0] + (b[0] - a[0]) * t),
        round(a[1] + (b[1] - a[1]) * t),
        round(a[2] + (b[2] - a[2]) * t),
    )


def lightness(colour: Colour) -> float:
    """Relative luminance, 0 (black) to 1 (white); Rec. 601 weights."""
    return (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255


@dataclass(frozen=True)
class Shape:
    """A closed outline: an ellipse (centre and radii) or a polygon, with its fill."""

    points: tuple[Point, ...]
    fill: Colour
    ellipse: bool = False


def oval(x: float, y: float, rx: float, ry: float, fill: Colour) -> Shape:
    """An ellipse around (x, y)."""
    return Shape(((x - rx, y - ry), (x + rx, y + ry)), fill, ellipse=True)


def turned(x: float, y: float, rx: float, ry: float, degrees: float, fill: Colour) -> Shape:
    """An ellipse turned clockwise, as a polygon."""
    a = degrees * pi / 180
    steps = [2 * pi * i / 20 for i in range(20)]
    return Shape(
        tuple(
            (
                x + rx * cos(s) * cos(a) - ry * sin(s) * sin(a),
                y + rx * cos(s) * sin(a) + ry * sin(s) * cos(a),
            )
            for s in steps
        ),
        fill,
    )


def poly(fill: Colour, *points: Point) -> Shape:
    """A polygon."""
    return Shape(points, fill)


class Pen:
    """Draws shapes in local units: (0, 0) lands on ``origin``, one unit is ``unit`` pictures."""

    def __init__(self, pixels: int, style: str) -> None:
        self.style = style
        self.pixels = pixels
        self.image = Image.new("RGB", (pixels, pixels))
        self._draw = ImageDraw.Draw(self.image)
        self.origin: Point = (0.0, 0.0)
        self.unit = 1.0
        self._line = _LINE[style] * pixels

    def place(self, origin: Point = (0.0, 0.0), unit: float = 1.0) -> None:
        """Move and scale what is drawn from here on."""
        self.origin, self.unit = origin, unit

    def tones(self, fill: Colour) -> tuple[Colour, Colour]:
        """Fill and outline of a shape of this colour in the pen's style."""
        if self.style == "neon":
            glow = (
                mix(fill, (255, 255, 255), 0.25)
                if lightness(fill) > 0.25
                else mix(fill, (190, 190, 225), 0.6)
            )
            return mix(_NIGHT, fill, 0.26), glow
        if self.style == "watercolor":
            return mix(fill, PAPER, 0.18), mix(fill, INK, 0.45)
        if self.style == "pencil sketch":
            return mix(fill, PAPER, 0.3), _GRAPHITE
        return fill, INK

    def group(self, shapes: Iterable[Shape], outline: float = 1.0) -> None:
        """Shapes that share one outline: where they overlap no line is drawn between them."""
        shapes = list(shapes)
        width = self._line * outline
        if outline:
            for shape in shapes:
                self._blob(shape, self.tones(shape.fill)[1], width)
        for shape in shapes:
            self._blob(shape, self.tones(shape.fill)[0], 0.0)

    def each(self, shapes: Iterable[Shape], outline: float = 1.0) -> None:
        """Shapes with an outline of their own, later ones over earlier ones."""
        for shape in shapes:
            self.group([shape], outline)

    def stroke(self, points: Sequence[Point], colour: Colour, width: float = 1.0) -> None:
        """An open line; ``colour`` is used as it is."""
        pixels = [self._pixel(p) for p in points]
        w = self._line * width
        self._draw.line(pixels, fill=colour, width=max(1, round(w)), joint="curve")
        for x, y in (pixels[0], pixels[-1]):  # round ends
            self._draw.ellipse((x - w / 2, y - w / 2, x + w / 2, y + w / 2), fill=colour)

    def arc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        start: float,
        end: float,
        colour: Colour,
        width: float = 1.0,
    ) -> None:
        """An open elliptic arc from ``start`` to ``end`` degrees, clockwise from three o'clock."""
        steps = [(start + (end - start) * i / 10) * pi / 180 for i in range(11)]
        self.stroke([(x + rx * cos(s), y + ry * sin(s)) for s in steps], colour, width)

    def ink_on(self, fill: Colour) -> Colour:
        """A line colour that shows on a shape of this colour."""
        if self.style == "neon":
            return (235, 240, 255)
        if lightness(fill) < 0.3:
            return (236, 228, 220)
        return _GRAPHITE if self.style == "pencil sketch" else INK

    def lights(self, shapes: Iterable[Shape]) -> None:
        """Small things without outlines: flowers, flakes, windows; in neon they shine."""
        for shape in shapes:
            self._blob(shape, self.tones(shape.fill)[self.style == "neon"], 0.0)

    def plain(self, shapes: Iterable[Shape]) -> None:
        """Shapes in just the colours they have, whatever the style."""
        for shape in shapes:
            self._blob(shape, shape.fill, 0.0)

    @property
    def mouth_ink(self) -> Colour:
        """The line colour of a mouth: muzzles are pale but in neon."""
        return (235, 240, 255) if self.style == "neon" else INK

    def _pixel(self, point: Point) -> Point:
        return (
            (self.origin[0] + point[0] * self.unit) * self.pixels,
            (self.origin[1] + point[1] * self.unit) * self.pixels,
        )

    def _blob(self, shape: Shape, colour: Colour, grow: float) -> None:
        points = [self._pixel(p) for p in shape.points]
        if shape.ellipse:
            (x0, y0), (x1, y1) = points
            self._draw.ellipse((x0 - grow, y0 - grow, x1 + grow, y1 + grow), fill=colour)
            return
        self._draw.polygon(points, fill=colour)
        if grow >= 0.5:
            closed = [*points, points[0], points[1]]
            self._draw.line(closed, fill=colour, width=round(2 * grow), joint="curve")


def finish(image: Image.Image, size: int, style: str) -> Image.Image:
    """Scale a supersampled canvas down to ``size`` pixels and give it the style's surface."""
    if style == "pixel art":
        cells = min(32, size)
        small = image.resize((cells, cells), Image.Resampling.BOX).point(
            lambda v: min(255, (v + 12) // 24 * 24)
        )
        return small.resize((size, size), Image.Resampling.NEAREST)
    picture = image.reduce(image.width // size)
    if style == "neon":
        bright = picture.point(lambda v: max(0, v - 96))  # only lines glow, not the dark fills
        return ImageChops.screen(picture, bright.filter(ImageFilter.GaussianBlur(size / 36)))
    if style == "pencil sketch":
        return ImageChops.lighter(ImageChops.screen(picture, _hatching(size)), _vignette(size, 30))
    if style == "watercolor":
        wash = picture.filter(ImageFilter.GaussianBlur(size / 130))
        wash = ImageChops.multiply(wash, _pigment(size))
        return Image.composite(Image.new("RGB", (size, size), PAPER), wash, _edge(size))
    return picture


@lru_cache(maxsize=8)
def _hatching(size: int) -> Image.Image:
    k = size / 64
    tile = Image.new("L", (size, size))
    tile.putdata([62 if ((x + y) / k) % 4 < 1.6 else 0 for y in range(size) for x in range(size)])
    return Image.merge("RGB", (tile, tile, tile))


@lru_cache(maxsize=8)
def _vignette(size: int, strength: int) -> Image.Image:
    # Paper shows in the corners, where a pencil rarely goes.
    mask = _edge(size).point(lambda v: v * strength // 255 * 4)
    return Image.merge("RGB", (mask, mask, mask))


@lru_cache(maxsize=8)
def _pigment(size: int) -> Image.Image:
    # Slow waves of more and less pigment: the same in every picture, so that it costs no latents.
    values = []
    for y in range(size):
        for x in range(size):
            u, v = x / size * 2 * pi, y / size * 2 * pi
            wave = sin(2 * u + 1.3 * sin(v)) + sin(3 * v + 1.7 * sin(u) + 1)
            values.append(round(244 + 5 * wave))
    field = Image.new("L", (size, size))
    field.putdata(values)
    return Image.merge("RGB", (field, field, field))


@lru_cache(maxsize=8)
def _edge(size: int) -> Image.Image:
    # 255 on bare paper: a wavy border a sixteenth of the picture wide.
    values = []
    for y in range(size):
        for x in range(size):
            u, v = (x + 0.5) / size, (y + 0.5) / size
            wave = 0.012 * (sin(5 * u * pi) + sin(4 * v * pi + 1) + sin(7 * (u - v) * pi))
            inside = min(u, v, 1 - u, 1 - v) + wave
            values.append(round(255 * min(1.0, max(0.0, (0.065 - inside) / 0.03))))
    mask = Image.new("L", (size, size))
    mask.putdata(values)
    return mask
