"""What all records share: frozen arrays, pictures, numbers of a part, and one file.

The file is safetensors (huggingface/safetensors): arrays by name, and one JSON object of words in
its metadata. The library refuses overlaps, holes and whatever is longer or shorter than it claims;
counts and sizes are compared here with the limits before anything is allocated. What is written
obeys the same limits, so that what saves opens.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from ldmkit.check import flag, plain, say, short, whole
from ldmkit.records.rgb import flat, upright

__all__ = [
    "MAX_BYTES",
    "MAX_PICTURES",
    "Arrays",
    "RecordError",
    "array_name",
    "check_seed",
    "copied",
    "entries_of",
    "file_name",
    "flag_of",
    "frozen",
    "images_of",
    "index_of",
    "json_text",
    "open_record",
    "pack_pictures",
    "path_of",
    "place_of",
    "read_record",
    "save_record",
    "string",
    "unpack_pictures",
    "whole_of",
    "write_atomically",
]

MAX_BYTES = 4 * 2**30  # of a file, unless the reader raises it
MAX_HEADER = 32 * 2**20  # of a file's words; safetensors itself stops at 100 MB
MAX_ARRAYS = 10_000
MAX_NUMBERS = 2**40  # of an array, empty axes counted as one: numpy can't count much further
MAX_PICTURES = 100_000
VERSION = 1  # of all kinds; a reader refuses others
KEY = "ldmkit"  # the one entry of the safetensors metadata that is ours
DTYPES = ("U8", "F16", "F32", "F64")

Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")


class RecordError(ValueError):
    """A record that cannot be made, drawn, saved or opened; the message says what to do next."""


# --- parts of a record -------------------------------------------------------------------------


def frozen(name: str, value: Any, dtype: type, shape: tuple[int | None, ...] | None = None) -> Any:
    """A read-only copy, which the caller's own array can't change.

    Args:
        name: of the field, for the sentence.
        value: what numpy makes an array of. One that nobody can write to is taken as it is.
        dtype: of the copy.
        shape: the expected lengths, ``None`` for any above zero; by default any shape.

    Raises:
        RecordError: no numbers, what would clip or wrap in uint8, or another shape.
    """
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "buifO":  # numpy would read "7" and drop imaginary parts
            raise TypeError
        with np.errstate(over="ignore"):
            array: NDArray[Any] = given.astype(dtype, copy=False)
    except MemoryError:
        raise
    except Exception:  # words, ragged lists, 10**400, a damaged picture: anything may come
        raise RecordError(f"{name} must be an array of numbers, got {short(value)}.") from None
    if dtype is np.uint8 and given.dtype != np.uint8:
        raise RecordError(
            f"{name} must be uint8, got {given.dtype}; floats from 0 to 1 become it by "
            "(values * 255).round().astype(numpy.uint8)."
        )
    if shape is not None and not _fits(array.shape, shape):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        wanted += "," if len(shape) == 1 else ""
        raise RecordError(
            f"{name} must have the shape ({wanted}), got {array.shape}; "
            "every array of a record counts the same things."
        )
    if array.flags.writeable or not array.flags.owndata:
        array = array.copy()
        array.flags.writeable = False
    return array


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        have > 0 if want is None else have == want for have, want in zip(shape, wanted, strict=True)
    )


def copied(name: str, value: Any) -> dict[str, Any]:
    """A mapping and the containers in it, copied: the record must not change with the caller's.

    Raises:
        RecordError: no mapping.
    """
    if not isinstance(value, Mapping):
        raise RecordError(f"{name} must be a dict, got {short(value)}; write {name}={{}} for none.")
    try:
        return {key: _copied(entry) for key, entry in value.items()}
    except RecursionError:
        raise RecordError(
            f"{name} must not hold lists in lists without end; keep it flat."
        ) from None


def _copied(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_copied(entry) for entry in value)
    return {k: _copied(v) for k, v in value.items()} if type(value) is dict else value


def string(name: str, value: Any) -> None:
    """Refuses what is no string."""
    if not isinstance(value, str):
        raise RecordError(
            f"{name} must be a string, got {type(value).__name__}; write it in quotes."
        )


def entries_of(name: str, value: Any) -> tuple[Any, ...]:
    """Entries as a tuple, not more than a file holds."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        entries = tuple(islice(value, MAX_PICTURES + 1))  # a generator may have no end
    except TypeError:  # also of an array that holds one number
        raise RecordError(f"{name} must be a list, got {short(value)}.") from None
    if len(entries) > MAX_PICTURES:
        count = f"{len(value):,}" if hasattr(value, "__len__") else "more"
        raise RecordError(
            f"{name} may hold {MAX_PICTURES:,} entries, got {count}; make several records."
        )
    return entries


def images_of(value: Any, *, missing: bool = False) -> tuple[Any, ...]:
    """Pictures of their own modes, upright, copied: nobody else draws on a record's pictures.

    Args:
        value: PIL pictures.
        missing: whether ``None`` may stand where a picture was not made.

    Raises:
        RecordError: something else among them, an empty picture, or a damaged file.
    """
    images = entries_of("images", value)
    for image in images:
        if not isinstance(image, Image.Image) and not (missing and image is None):
            raise RecordError(
                f"images must be PIL pictures, got {short(image)}; "
                "convert arrays with Image.fromarray."
            )
    try:
        return tuple(None if i is None else upright(i, max_pixels=None) for i in images)
    except ValueError as error:
        raise RecordError(f"images can't be kept: {error}") from None


def index_of(name: str, value: Any, count: int) -> int:
    """Which of ``count`` pictures or steps is meant, from 0.

    Raises:
        RecordError: no whole number, or there is none such.
    """
    return whole_of(name, value, 0, count - 1)


def whole_of(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``check.whole`` for what a record is asked: both its errors are the record's."""
    try:
        return whole(name, value, least, most)
    except (TypeError, ValueError) as error:
        raise RecordError(str(error)) from None


def flag_of(name: str, value: Any) -> bool:
    """``check.flag`` for a record's own fields."""
    try:
        return flag(name, value)
    except TypeError as error:
        raise RecordError(str(error)) from None


def check_seed(name: str, seed: int) -> None:
    """Refuses a seed that no generator takes; Python can't even write a much longer one."""
    whole_of(name, seed, -(2**63), 2**64 - 1)


def place_of(name: str, value: Any, count: int) -> int:
    """As a list's index, negative from the end, in words of its own.

    Raises:
        TypeError: no whole number.
        IndexError: there are fewer.
    """
    if not count:
        raise IndexError(f"There is no {name}, got number {short(value)}.")
    try:
        return whole(name, value, -count, count - 1) % count
    except ValueError as error:
        raise IndexError(str(error)) from None


# --- files -------------------------------------------------------------------------------------


def path_of(path: Any) -> Path:
    """A path that the disk can name, or one sentence.

    Raises:
        TypeError: no path.
        ValueError: letters that no path has.
    """
    try:
        name = os.fsencode(path)
    except TypeError:
        raise TypeError(f"path must be a string or a Path, got {short(path)}.") from None
    except UnicodeError:  # half a surrogate pair
        name = b"\0"
    if b"\0" in name:
        raise ValueError(f"path holds letters that no file's name has, got {short(path)}.")
    return Path(os.fsdecode(name))


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Calls ``write`` with a path beside ``path`` and moves the finished file into place.

    Nothing half-written stays: an error or an interrupt removes the part, and a file that was
    there before is untouched.

    Raises:
        TypeError: no path.
        OSError: the folder is missing or not writable, or the path is a folder.
    """
    target = path_of(path)
    if target.is_dir():
        raise IsADirectoryError(f"{short(str(path))} is a folder; add the name of a file.")
    part = target.with_name(f".{secrets.token_hex(4)}.part")  # short: the target's may be 255 bytes
    try:
        write(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


# Names that Windows gives to devices, whatever ending follows.
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(?=\.|$)", re.I)
_JOINERS = "\u200c\u200d"  # inside Persian and Hindi words and emoji of several parts


def file_name(words: str, ending: str = "", *, otherwise: str = "ldmkit") -> str:
    """A file's name out of untrusted words, clean on every system.

    Letters, digits and emoji of every script stay, what else stands between them becomes one
    hyphen: no separators, quotes, controls or turned letters, no name of a Windows device, no dot
    or space at an end. Fifty letters are kept: 200 bytes, where most disks take 255.

    Args:
        words: such as a prompt.
        ending: such as ``".png"``.
        otherwise: the name where the words leave nothing.
    """
    line = plain(words).replace("\ufffd", " ").replace("→", " to ").lower()
    kept = "".join(c if c in _JOINERS or _in_a_name(c) else " " for c in line)
    name = "-".join(kept.split())[:50].strip("-" + _JOINERS) or otherwise
    return (f"{name}-" if _DEVICES.match(name) else name) + ending


def _in_a_name(letter: str) -> bool:
    kind = unicodedata.category(letter)  # "Cn": letters newer than Python's tables
    return kind[0] in "LMN" or kind in ("So", "Sk", "Cn")


def save_record(
    path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Any], words: Mapping[str, Any]
) -> Path:
    """Writes arrays and words as a safetensors file, whole or not at all.

    Args:
        path: the file to write.
        kind: of the record, ``"walk"``.
        arrays: by name; uint8, float16, float32 or float64.
        words: what JSON can hold.

    Raises:
        RecordError: ``words`` holds something that JSON does not (NaN included), or too much.
        OSError: the folder is missing or not writable; no half-written file stays.
    """
    text = json_text({"format": kind, "version": VERSION, **words})
    if len(arrays) > MAX_ARRAYS:
        raise RecordError(
            f"A record may have {MAX_ARRAYS:,} arrays, got {len(arrays):,}; make several records."
        )
    kept = {array_name(name): np.ascontiguousarray(array) for name, array in arrays.items()}
    data = to_bytes(kept, metadata={KEY: text})
    header = int.from_bytes(data[:8], "little")  # JSON in JSON: quotes are escaped a second time
    if header > MAX_HEADER:
        raise RecordError(
            f"A record's words may take {MAX_HEADER:,} bytes, got {header:,}; "
            "shorten the prompt, captions or call, or make several records."
        )
    if len(data) > MAX_BYTES:
        say(
            f"{path_of(path).name!r} holds {len(data):,} bytes, more than open() takes unasked; "
            f"open it with max_bytes={len(data)}.",
            stacklevel=3,
        )
    return write_atomically(path, lambda part: part.write_bytes(data))


def json_text(words: Mapping[str, Any]) -> str:
    """Words as JSON that can be read again.

    Raises:
        RecordError: something among them is no JSON.
    """
    try:
        text = json.dumps(words, allow_nan=False)
        json.loads(text)  # a list in a list in a list … may be written and not read
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(
            f"A record's words must be plain JSON ({error}); "
            "keep strings, finite numbers, lists and dicts in call."
        ) from None
    return text


def array_name(name: str) -> str:
    """The name of an array as a file holds it: half a surrogate pair is no UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def open_record(
    path: str | os.PathLike[str],
    kind: str,
    unpack: Callable[[Arrays, dict[str, Any]], T],
    *,
    max_bytes: int,
) -> T:
    """Reads what ``save_record`` wrote.

    Args:
        path: the file.
        kind: of the record, as it was written.
        unpack: makes the record of its arrays and words; what it raises becomes one sentence.
        max_bytes: larger files are refused.

    Raises:
        RecordError: the file is truncated, foreign, over ``max_bytes`` or contradicts itself.
        OSError: the file is missing or not readable.
    """
    name = path_of(path).name
    arrays, words = read_record(path, max_bytes=max_bytes)
    if words.get("format") != kind:
        raise RecordError(f"{name!r} holds {short(words.get('format'))}, not {_a(kind)}.")
    if words.get("version") != VERSION:
        raise RecordError(
            f"{name!r} is of version {short(words.get('version'), 20)}, this ldmkit reads "
            f"{VERSION}; install the ldmkit that wrote it or a newer one."
        )
    try:
        return unpack(arrays, words)
    except Exception as error:  # a hostile file may trip over anything, in numpy's words
        what = error if isinstance(error, RecordError) else "its parts contradict each other."
        if isinstance(error, KeyError):
            what = f"it lacks {short(error.args[0])}."
        raise RecordError(f"{name!r} is not a whole {kind}: {what}") from None


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def read_record(path: str | os.PathLike[str], *, max_bytes: int) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the words of a file, as they are; see ``open_record``."""
    path = path_of(path)
    max_bytes = whole("max_bytes", max_bytes, 0)
    if path.is_dir():
        raise RecordError(f"{path.name!r} is a folder; a record is one .safetensors file.")
    size = _check_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            words = _words(file.metadata())
            if words is None:
                _foreign(path.name)
            if size > max_bytes:
                raise RecordError(
                    f"{path.name!r} holds {size:,} bytes, the limit is {max_bytes:,}; "
                    "raise it with max_bytes= if you trust the file."
                )
            names = list(file.keys())
            if len(names) > MAX_ARRAYS:
                raise RecordError(
                    f"{path.name!r} lists {len(names):,} arrays, the limit is {MAX_ARRAYS:,}."
                )
            for name in names:
                _check_array(path.name, name, file.get_slice(name))
            arrays = {name: _own(file.get_tensor(name)) for name in names}
    except SafetensorError:
        raise RecordError(
            f"{path.name!r} contradicts itself: it is cut off or damaged; copy or save it again."
        ) from None
    return arrays, words


def _check_header(path: Path) -> int:
    """Refuses a foreign file and a header beyond the limits; returns the file's size."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        # The brace is checked first: in a PNG or a zip the "length" is an arbitrary huge number.
        if size < 10 or file.read(1) != b"{":
            _foreign(path.name)
    if length > MAX_HEADER:
        raise RecordError(
            f"{path.name!r} claims a header of {length:,} bytes, the limit is {MAX_HEADER:,}; "
            "the file is damaged or not a record: save it again."
        )
    if 8 + length > size:
        raise RecordError(
            f"{path.name!r} claims {8 + length:,} bytes and holds {size:,}: it is cut off or "
            "damaged; copy or save it again."
        )
    return size


def _words(metadata: dict[str, str] | None) -> dict[str, Any] | None:
    try:
        words = json.loads((metadata or {})[KEY])
    except (KeyError, ValueError, RecursionError):
        return None
    return words if isinstance(words, dict) else None


def _check_array(file: str, name: str, claim: Any) -> None:
    """Refuses what numpy would refuse in its own words, or read as something else."""
    shape = claim.get_shape()
    room = math.prod(max(side, 1) for side in shape)  # [0, 2**47, 2**47] holds nothing
    if claim.get_dtype() not in DTYPES or len(shape) > 8 or room > MAX_NUMBERS:
        raise RecordError(
            f"{file!r} describes {short(name)} in a way that records never do; "
            "the file is damaged or not a record: save it again."
        )


def _own(array: NDArray[Any]) -> NDArray[Any]:
    """As ``frozen`` takes it without another copy."""
    array = array.copy()
    array.flags.writeable = False
    return array


def _foreign(name: str) -> NoReturn:
    raise RecordError(
        f"{name!r} is not a record of ldmkit (whatever its name says); "
        "open a file that save() wrote."
    )


def pack_pictures(images: Iterable[Image.Image]) -> Arrays:
    """Pictures as arrays: ``images`` (n, H, W, 3) of one size, else ``pixels`` and ``sizes``."""
    pixels = [np.asarray(flat(image, tell=True)) for image in images]
    if not pixels:
        return {}
    if len({array.shape for array in pixels}) == 1:
        return {"images": np.stack(pixels)}
    sizes = np.array([array.shape[:2] for array in pixels], np.float64)  # (n, 2) height, width
    return {"pixels": np.concatenate([array.ravel() for array in pixels]), "sizes": sizes}


def unpack_pictures(arrays: Mapping[str, NDArray[Any]]) -> list[Image.Image]:
    """What ``pack_pictures`` made; also ``images/0``…, as older files have them."""
    if "images" in arrays:
        found = list(arrays["images"])
    elif "pixels" in arrays:
        found, start = [], 0
        for height, width in arrays["sizes"].astype(np.int64).tolist():
            end = start + 3 * height * width
            found.append(arrays["pixels"][start:end].reshape(height, width, 3))
            start = end
    else:
        count = sum(name.startswith("images/") for name in arrays)
        found = [arrays[f"images/{i}"] for i in range(count)]
    for array in found:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
            raise RecordError(
                f"images must be (n, h, w, 3) uint8, got (n, {', '.join(map(str, array.shape))}) "
                f"{array.dtype}."
            )
    return [Image.fromarray(array) for array in found]
