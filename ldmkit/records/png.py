"""A picture with the words that made it, in one PNG: what a file keeps when all else is lost.

The words are JSON in an iTXt chunk (PNG, third edition, section 11.3.4.3) under the keyword
``ldmkit``; programs that don't know it show the picture. Pillow decompresses a text chunk to at
most 1 MB and all of them to at most 64 MB, so that a hostile file costs no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, PngImagePlugin

from ldmkit.check import short
from ldmkit.records.record import RecordError, json_text, path_of, write_atomically
from ldmkit.records.rgb import MAX_PIXELS, flat

__all__ = ["read", "write"]

KEY = "ldmkit"
VERSION = 1
MAX_TEXT = 500_000  # characters of JSON; pillow reads a million
MAX_BYTES = 256 * 2**20
SIGNATURE = b"\x89PNG\r\n\x1a\n"

T = TypeVar("T")


def write(path: str | PathLike[str], picture: Image.Image, words: Mapping[str, Any]) -> Path:
    """Writes a picture with words inside, whole or not at all.

    Raises:
        RecordError: the words are no JSON, or too many; a picture too large to be read again.
        OSError: the folder is missing or not writable.
    """
    text = json_text({"version": VERSION, **words})
    if len(text) > MAX_TEXT:
        raise RecordError(
            f"A picture's words may take {MAX_TEXT:,} characters, got {len(text):,}; "
            "shorten the prompt, or keep the record with save()."
        )
    _check_pixels("A picture with its words", picture.size, "keep the record with save()")
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, text, zip=True)
    pixels = flat(picture, tell=True)
    return write_atomically(path, lambda part: pixels.save(part, "PNG", pnginfo=info))


def read(path: str | PathLike[str], make: Callable[[Mapping[str, Any], Image.Image], T]) -> T:
    """Reads a picture and its words.

    Args:
        path: of a PNG that ``write`` wrote.
        make: what comes back, of the words and the picture.

    Raises:
        RecordError: no PNG, one without words, damaged, or beyond the limits.
        OSError: the file is missing or not readable.
    """
    path = path_of(path)
    if path.is_dir():
        raise RecordError(f"{path.name!r} is a folder; give the PNG that to_png wrote.")
    with path.open("rb") as file:
        _check_file(path.name, file.read(8), file.seek(0, 2))
        try:
            file.seek(0)
            opened = PngImagePlugin.PngImageFile(file)
            # The header may stand behind other chunks: what counts is what pillow has read.
            _check_pixels(repr(path.name), opened.size, "open a file that to_png wrote")
            opened.load()
            text = opened.text.get(KEY)
            picture = flat(opened)
        except RecordError:
            raise
        except Exception:  # whatever pillow trips over
            raise RecordError(
                f"{path.name!r} is cut off or damaged; copy or save it again."
            ) from None
    if text is None:
        raise RecordError(
            f"{path.name!r} is a picture without its call; open a file that to_png wrote (many "
            "programs drop the words when they save or send a picture)."
        )
    return _made(path.name, text, picture, make)


def _check_file(name: str, head: bytes, size: int) -> None:
    if head != SIGNATURE:
        raise RecordError(
            f"{name!r} is not a PNG (whatever its name says); open a file that to_png wrote."
        )
    if size > MAX_BYTES:
        raise RecordError(
            f"{name!r} has {size:,} bytes, the limit is {MAX_BYTES:,}; open a file that to_png "
            "wrote."
        )


def _check_pixels(what: str, size: tuple[int, int], advice: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise RecordError(
            f"{what} has {size[0]:,} × {size[1]:,} pixels, the limit is {MAX_PIXELS:,}; {advice}."
        )


def _made(
    name: str, text: str, picture: Image.Image, make: Callable[[Mapping[str, Any], Image.Image], T]
) -> T:
    try:
        words = json.loads(text, parse_constant=_refuse)
        if words["version"] != VERSION:
            raise RecordError(
                f"its words are of version {short(words['version'], 20)}, this ldmkit reads "
                f"{VERSION}"
            )
        return make(words, picture)
    except Exception as error:  # a hostile file may trip over anything, in Python's words
        what = str(error) if isinstance(error, RecordError) else "its parts contradict each other"
        if isinstance(error, KeyError):
            what = f"it lacks {short(error.args[0])}"
        raise RecordError(
            f"{name!r} holds a call that can't be read ({what[:200].rstrip('.')}); save it again."
        ) from None


def _refuse(constant: str) -> None:
    raise RecordError(f"{constant} is no JSON")
