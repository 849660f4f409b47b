"""Any picture as upright RGB: what people bring has every mode, size and turn."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

__all__ = ["MAX_PIXELS", "to_rgb"]

MAX_PIXELS = 40_000_000  # a phone's largest; decoded, 120 MB
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # one channel of more than eight bits


def to_rgb(picture: Any, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture as people see it: turned as its EXIF says, on white where it is transparent.

    Args:
        picture: a PIL picture of any mode; 16-bit and float greys are scaled to eight bits.
        max_pixels: width × height that is accepted; compared before anything is decoded.

    Returns:
        A new RGB picture; only a JPEG's turn changes its size.

    Raises:
        TypeError: not a PIL picture.
        ValueError: no pixel, too many, or a file that is cut off.
    """
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f"A picture must be a PIL image, got {type(picture).__name__}; open a file with "
            "PIL.Image.open(path), make one of an array with PIL.Image.fromarray(array)."
        )
    width, height = picture.size
    if not 0 < width * height <= max_pixels:
        raise ValueError(
            f"A picture may have 1 to {max_pixels:,} pixels, got {width} × {height}; resize it."
        )
    try:
        picture.load()
        return _flat(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError) as error:  # what pillow raises for damaged files
        raise ValueError(f"The picture can't be read ({error}); save it again as PNG.") from None


def _flat(picture: Image.Image) -> Image.Image:
    if picture.mode in _DEEP:
        return _eight_bits(picture).convert("RGB")
    if picture.mode in ("La", "RGBa"):  # premultiplied
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        above = picture.convert("RGBA")
        ground = Image.new("RGBA", above.size, "white")
        return Image.alpha_composite(ground, above).convert("RGB")
    return picture.copy() if picture.mode == "RGB" else picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    # Nothing says how bright white is: 1, 255 or 65,535, whichever the values fit below.
    largest = values.max(initial=0.0)
    white = next((top for top in (1.0, 255.0, 65535.0) if largest <= top), largest)
    white = 65535.0 if picture.mode.startswith("I;16") else white
    return Image.fromarray((values.clip(0) * (255 / white)).round().astype(np.uint8))
