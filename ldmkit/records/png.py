"""A picture with the call that made it, in one PNG: what a file keeps when all else is lost.

The call is JSON in an iTXt chunk (PNG, third edition, section 11.3.4.3) under the keyword
``ldmkit``; programs that don't know it show the picture. Pillow decompresses a text chunk to at
most 1 MB and all of them to at most 64 MB, so that a hostile file costs no more.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ldmkit.records.errors import RecordError
from ldmkit.records.files import write_atomically
from ldmkit.records.rgb import MAX_PIXELS
from ldmkit.records.trajectory import Trajectory

__all__ = ["load", "save", "write_png"]

KEY = "ldmkit"
FORMAT = "call"
VERSION = 1
WORDS = ("prompt", "negative_prompt", "seed", "call", "model", "versions", "stopped")
BATCH = ("prompt", "negative_prompt", "seed")  # may differ from picture to picture
MAX_TEXT = 500_000  # characters of JSON; pillow reads a million
MAX_BYTES = 256 * 2**20
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def save(traj: Trajectory, path: str | PathLike[str], batch: int) -> Path:
    """Writes the picture and the call; see ``Trajectory.to_png``."""
    if not traj.images:
        raise RecordError(
            "This trajectory holds no final picture (images is empty); keep it with save()."
        )
    if not 0 <= batch < len(traj.images):
        raise RecordError(
            f"batch must be between 0 and {len(traj.images) - 1} inclusive, got {batch}."
        )
    return write_png(path, traj.images[batch], {"format": FORMAT, **_words(traj, batch)})


def _words(traj: Trajectory, batch: int) -> dict[str, Any]:
    words = {name: getattr(traj, name) for name in WORDS}
    count = len(traj.images)
    if count > 1:
        # The whole batch is told too: a run of one picture alone may round otherwise.
        whole = {name: words[name] for name in BATCH}
        words |= {name: _own(value, batch, count) for name, value in whole.items()}
        words["call"] = {**traj.call, "batch": {"picture": batch, **whole}}
    return words


def write_png(path: str | PathLike[str], picture: Image.Image, words: Mapping[str, Any]) -> Path:
    """Writes a picture with words inside, whole or not at all.

    Raises:
        RecordError: the words are no JSON, or too many.
        OSError: the folder is missing or not writable.
    """
    try:
        text = json.dumps({"version": VERSION, **words}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"A record's words must be plain JSON ({error}); "
            "keep strings, finite numbers, lists and dicts in call."
        ) from None
    if len(text) > MAX_TEXT:
        raise RecordError(
            f"A picture's words may take {MAX_TEXT:,} characters, got {len(text):,}; "
            "shorten the prompt, or keep the record with save()."
        )
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, text, zip=True)

    def write(part: Path) -> None:
        picture.convert("RGB").save(part, "PNG", pnginfo=info)

    return write_atomically(path, write)


def _own(value: Any, batch: int, count: int) -> Any:
    """One picture's part of what is given for several (num_images_per_prompt repeats each)."""
    if not isinstance(value, tuple):
        return value
    return value[min(batch // max(1, count // len(value)), len(value) - 1)]


def load(path: str | PathLike[str]) -> Trajectory:
    """Reads the picture and the call; see ``Trajectory.from_png``."""
    path = Path(path)
    if path.is_dir():
        raise RecordError(f"{path.name!r} is a folder; give the PNG that to_png wrote.")
    _check_file(path)
    try:
        with Image.open(path, formats=["PNG"]) as file:
            file.load()
            text = file.text.get(KEY) if isinstance(file, PngImagePlugin.PngImageFile) else None
            picture = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise RecordError(
            f"{path.name!r} is cut off or damaged ({error}); copy or save it again."
        ) from None
    if text is None:
        raise RecordError(
            f"{path.name!r} is a picture without its call; open a file that to_png wrote (many "
            "programs drop the words when they save or send a picture)."
        )
    return _unpack(path.name, text, picture)


def _check_file(path: Path) -> None:
    """Refuses what is no PNG or too large, before any of it is decoded."""
    with path.open("rb") as file:
        head = file.read(24)
        size = file.seek(0, 2)
    if head[:8] != SIGNATURE:
        raise RecordError(
            f"{path.name!r} is not a PNG (whatever its name says); open a file that to_png wrote."
        )
    width, height = struct.unpack(">II", head[16:24]) if len(head) == 24 else (0, 0)
    if size > MAX_BYTES or width * height > MAX_PIXELS:
        raise RecordError(
            f"{path.name!r} has {width:,} × {height:,} pixels in {size:,} bytes, the limits are "
            f"{MAX_PIXELS:,} pixels and {MAX_BYTES:,} bytes; open a file that to_png wrote."
        )


def _unpack(name: str, text: str, picture: Image.Image) -> Trajectory:
    try:
        words = json.loads(text, parse_constant=_refuse)
        if words["format"] != FORMAT:
            raise RecordError(f"it is of a {str(words['format'])[:40]!r}, not of one picture's run")
        if words["version"] != VERSION:
            raise RecordError(
                f"its words are of version {str(words['version'])[:20]}, this ldmkit reads "
                f"{VERSION}"
            )
        for field in ("call", "versions"):
            if not isinstance(words[field], dict):
                raise RecordError(f"{field} must be an object, got {type(words[field]).__name__}")
        fields = {field: words[field] for field in WORDS}
        empty: dict[str, Any] = dict.fromkeys(("timesteps", "alphas", "sigmas"), ())
        return Trajectory(**fields, **empty, images=(picture,))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        what = error if isinstance(error, RecordError) else f"{type(error).__name__}: {error}"
        raise RecordError(
            f"{name!r} holds a call that can't be read ({str(what)[:200]}); save it again."
        ) from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
