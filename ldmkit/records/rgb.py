"""The one way in for pictures: whatever people bring becomes upright RGB, or one sentence.

What they bring has every mode, size and turn, lies in a file, an upload or an array, and may be
damaged or hostile. Sizes are compared before anything is decoded or allocated; only formats that
are named here are opened, so that no file starts another program (EPS would start Ghostscript).
"""

from __future__ import annotations

import errno
import io
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ldmkit.check import say, short

__all__ = ["FORMATS", "MAX_PIXELS", "fitted", "flat", "is_picture_like", "to_rgb", "upright"]

MAX_PIXELS = 40_000_000  # a phone's largest; decoded, 160 MB
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP")
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # one channel of more than eight bits
_KINDS = "a PIL image, a path, an array or a tensor"
_ADVICE = "open a file with PIL.Image.open(path)."
_HALF_A_STEP = 0.5 / 255  # what eight bits can't tell from 0 or 1: a network's overshoot


def to_rgb(
    picture: Any,
    what: str = "A picture",
    *,
    max_pixels: int | None = MAX_PIXELS,
    side: int | None = None,
    name: str = "",
) -> Image.Image:
    """A picture as people see it: turned as its EXIF says, on white where it is transparent.

    Args:
        picture: a PIL picture of any mode; a path or an opened file of one of ``FORMATS``;
            an array (h, w) or (h, w, 1 to 4) of uint8, uint16, bool or floats from 0 to 1; a torch
            tensor of the same, (c, h, w). What has more than eight bits is scaled to them, which
            is said.
        what: what the picture is called in sentences.
        max_pixels: width × height that is accepted, ``None`` for any.
        side: what is longer is made smaller, in proportion.
        name: of the opened file, for sentences.

    Returns:
        A new RGB picture, its ``info`` empty.

    Raises:
        TypeError: no picture, such as a string that names no file.
        ValueError: no pixel, too many, numbers out of their range, or a file that is none of
            ``FORMATS``, cut off or damaged.
        OSError: the file is missing or not readable.
    """
    whole = upright(picture, what, max_pixels=max_pixels, side=side, name=name)
    try:
        whole = flat(whole, what, tell=True, side=side)
    except Warning:  # where the reader has made errors of them
        raise
    except Exception as error:  # a palette that is none
        raise _unreadable(what, name, error) from None
    whole.info.clear()
    return whole


def is_picture_like(thing: Any) -> bool:
    """Whether this is one picture, or its path, where several may stand, too."""
    if isinstance(thing, (Image.Image, str, bytes, os.PathLike, io.IOBase)):
        return True
    return len(getattr(thing, "shape", (0,) * 4)) < 4  # a batch has four axes


def upright(
    picture: Any,
    what: str = "A picture",
    *,
    max_pixels: int | None = MAX_PIXELS,
    side: int | None = None,
    name: str = "",
) -> Image.Image:
    """A copy in the picture's own mode, read whole and turned; see ``to_rgb``."""
    if isinstance(picture, io.IOBase):
        return _decoded(picture, what, max_pixels, side, name)
    if isinstance(picture, (str, os.PathLike)):
        with _file(picture, what) as file:
            return _decoded(file, what, max_pixels, side, Path(os.fsdecode(picture)).name)
    if not isinstance(picture, Image.Image):
        picture = _of_array(picture, what, max_pixels)
    return _turned(picture, what, max_pixels, name)


def _file(path: Any, what: str) -> BinaryIO:
    """A path opened. A string that names no file is taken for words in a picture's place."""
    found = Path(os.fsdecode(path))
    try:
        return found.open("rb")
    except (FileNotFoundError, ValueError):  # also of a path with a null byte
        words = f"{what} must be {_KINDS}, and there is no file {short(str(path))}; {_ADVICE}"
    except OSError as error:
        if isinstance(path, str) and error.errno == errno.ENAMETOOLONG:
            words = f"{what} must be {_KINDS}, got {short(path)}; {_ADVICE}"
        elif found.is_dir():
            raise ValueError(f"{what} must be a file, got the folder {short(str(path))}.") from None
        else:
            raise
    raise (TypeError if isinstance(path, str) else FileNotFoundError)(words)


def _decoded(file: Any, what: str, most: int | None, side: int | None, name: str) -> Image.Image:
    Image.init()
    known = [one for one in FORMATS if one in Image.OPEN]  # an older pillow has no AVIF
    try:
        picture = Image.open(file, formats=known)
    except Exception as error:  # whatever a parser trips over
        raise _unreadable(what, name, error) from None
    _check_size(picture.size, what, name, most)
    if side is not None:
        picture.draft("RGB", (side, side))  # JPEG decodes to a smaller size at once
    return _turned(picture, what, most, name)


def _turned(picture: Image.Image, what: str, most: int | None, name: str) -> Image.Image:
    _check_size(picture.size, what, name, most)
    try:
        picture.load()
        turned: Image.Image = ImageOps.exif_transpose(picture)  # a copy, turned or not
        _unindexed(turned.crop((0, 0, 1, 1)))  # a palette, or a key colour, that is none
        return turned
    except Exception as error:  # whatever a decoder trips over, AVIF's plain RuntimeError too
        raise _unreadable(what, name, error) from None


def _check_size(size: tuple[int, ...], what: str, name: str, most: int | None) -> None:
    if not 0 < math.prod(size) <= (most or math.inf):
        rule = f"1 to {most:,} pixels" if most else "one pixel at least"
        raise ValueError(
            f"{what} may have {rule}, {short(name) if name else 'this one'} has "
            f"{' × '.join(map(str, size))}; make it {'smaller' if all(size) else 'larger'}."
        )


def _unreadable(what: str, name: str, error: Exception) -> ValueError:
    which = short(name) if name else "this one"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ValueError(
            f"{what} may have {MAX_PIXELS:,} pixels, {which} has many more; make it smaller."
        )
    return ValueError(
        f"{what} can't be read: {which} is cut off, damaged, closed or none of "
        f"{', '.join(FORMATS)}; save it again as PNG or JPEG."
    )


# --- to eight bits on white ----------------------------------------------------------------------


def flat(
    picture: Image.Image,
    what: str = "A picture",
    *,
    tell: bool = False,
    side: int | None = None,
) -> Image.Image:
    """A picture of any mode as a new one in RGB, on white where it is transparent.

    Args:
        picture: upright and readable, as ``upright`` gives it and records keep it.
        what: what it is called in sentences.
        tell: whether is said what eight bits can't hold.
        side: what is longer is made smaller, in proportion.
    """
    deep = picture.mode in _DEEP
    whole = _eight_bits(picture, what, tell) if deep else _unindexed(picture)
    if side is not None and max(whole.size) > side:
        whole = whole.copy() if whole is picture else whole
        whole.thumbnail((side, side))
    if whole.mode in ("LA", "RGBA"):
        above = whole.convert("RGBA")
        ground = Image.new("RGBA", above.size, "white")
        whole = Image.alpha_composite(ground, above)
    return whole.convert("RGB")  # a copy of what is RGB already


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) of the same proportions whose longer side is ``side``."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _unindexed(picture: Image.Image) -> Image.Image:
    """In a mode whose values can be mixed: no palette, no key colour, nothing premultiplied."""
    if picture.mode not in ("LA", "RGBA") and picture.has_transparency_data:
        return picture.convert("LA" if picture.mode == "La" else "RGBA")
    return picture.convert("RGB") if picture.mode in ("P", "1") else picture


def _eight_bits(picture: Image.Image, what: str, tell: bool) -> Image.Image:
    values = np.asarray(picture, dtype=np.float32)
    black, white = _ends(picture.mode, values[np.isfinite(values)])
    if tell:
        unknown = int(np.isnan(values).sum())
        _say_scaled(what, f"mode {picture.mode}", black, white, unknown)
    scaled = (np.nan_to_num(values, nan=black, posinf=white, neginf=black) - black) / (
        white - black
    )
    pixels = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    if isinstance(key := picture.info.get("transparency"), int):  # a grey that is no ink
        pixels[values == key] = 255
    return Image.fromarray(pixels)


def _ends(mode: str, values: NDArray[np.float32]) -> tuple[float, float]:
    """Black and white. Nothing in a file says them: what the values fit between is taken."""
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low >= 0:
        return 0.0, next((top for top in (1.0, 255.0, 65535.0) if high <= top), high)
    return (-1.0, 1.0) if low >= -1 and high <= 1 else (low, high)


def _say_scaled(what: str, kind: str, black: float, white: float, unknown: int = 0) -> None:
    nan = f", {unknown:,} NaN are black" if unknown else ""
    say(
        f"{what} of {kind} has more than the eight bits that are kept: {black:,.7g} became black "
        f"and {white:,.7g} white{nan}; scale it yourself to choose others.",
        stacklevel=4,
    )


# --- arrays --------------------------------------------------------------------------------------


def _of_array(thing: Any, what: str, most: int | None) -> Image.Image:
    shape, kind = getattr(thing, "shape", None), getattr(thing, "dtype", None)
    if shape is None or kind is None:
        raise TypeError(f"{what} must be {_KINDS}, got {type(thing).__name__}; {_ADVICE}")
    tensor = hasattr(thing, "detach")  # torch's, by its looks: records know no torch
    sides = tuple(shape)[1:] if len(shape) == 4 and shape[0] == 1 else tuple(shape)
    first = tensor and len(sides) == 3 and sides[0] in (1, 2, 3, 4)  # channels first
    sides = (*sides, 1) if len(sides) == 2 else sides
    height, width, channels = (*sides[1:], sides[0]) if first else (*sides, 0, 0, 0)[:3]
    if len(sides) != 3 or channels not in (1, 2, 3, 4):
        raise ValueError(
            f"{what} must have the shape {'(3, h, w)' if tensor else '(h, w, 3)'} as "
            f"{'a tensor' if tensor else 'an array'}, got {tuple(shape)}; turn its axes."
        )
    _check_size((width, height), what, "", most)
    if tensor:
        thing = thing.detach().cpu()
        thing = thing.float() if thing.is_floating_point() else thing  # numpy has no bfloat16
    values = np.asarray(thing).reshape(sides)
    pixels = _as_bytes(np.moveaxis(values, 0, -1) if first else values, what)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))


def _as_bytes(values: NDArray[Any], what: str) -> NDArray[np.uint8]:
    kind = values.dtype.kind
    if kind not in "buif":
        raise TypeError(f"{what} must hold numbers, got an array of {values.dtype}.")
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        _say_scaled(what, "16 bits", 0, 65535)
        return (values / np.float32(257)).round().astype(np.uint8)
    low, high = values.min(), values.max()  # NaN where one is among them
    if kind == "f" and low >= -_HALF_A_STEP and high <= 1 + _HALF_A_STEP:
        return (values.clip(0, 1) * 255).round().astype(np.uint8)
    if kind == "b" or (kind in "iu" and low >= 0 and high <= 255):
        return values.astype(np.uint8) * np.uint8(255 if kind == "b" else 1)
    rule = "floats from 0 to 1" if kind == "f" else "whole numbers from 0 to 255"
    raise ValueError(
        f"{what} must hold {rule}, got {low:,.7g} to {high:,.7g}; scale them, "
        "such as values / 255 or values / 2 + 0.5."
    )
