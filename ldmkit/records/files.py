"""Safetensors files read under limits and files written whole or not at all.

The layout (huggingface/safetensors, format section): 8 bytes little-endian header length,
a JSON header of name -> dtype, shape, data_offsets, then the bytes. The header is read here
rather than by the library, so that every claim is compared with the file's real size and with
a maximum *before* anything is allocated, and so that each fault has a sentence of its own.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as to_bytes

from ldmkit.records.errors import RecordError

__all__ = ["read_record", "write_atomically", "write_record"]

MAX_HEADER = 4 * 2**20
MAX_TENSORS = 10_000
DTYPES: Mapping[str, type[np.generic]] = {
    "U8": np.uint8,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}
KEY = "ldmkit"  # the one entry of the safetensors metadata that is ours


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None]) -> Path:
    """Calls ``write`` with a path beside ``path`` and moves the finished file into place.

    Nothing half-written stays: an error or an interrupt removes the part, and a file that was
    there before is untouched.
    """
    target = Path(path)
    part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        write(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def write_record(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any],
) -> Path:
    """Writes arrays and one JSON object as a safetensors file, atomically.

    Raises:
        RecordError: ``meta`` holds something that JSON does not (NaN included), or too much.
    """
    try:
        text = json.dumps(meta, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"A record's words must be plain JSON ({error}); "
            "keep strings, finite numbers, lists and dicts in call."
        ) from None
    if len(text) > MAX_HEADER // 2:  # JSON in JSON: quotes are escaped a second time
        raise RecordError(
            f"A record's words may take {MAX_HEADER // 2:,} characters, got {len(text):,}; "
            "shorten the prompt or call."
        )
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data = to_bytes(whole, metadata={KEY: text})
    return write_atomically(path, lambda part: _write(part, data))


def _write(part: Path, data: bytes) -> None:
    part.write_bytes(data)


def read_record(
    path: str | os.PathLike[str], *, max_bytes: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Reads what ``write_record`` wrote.

    Returns:
        The arrays by name and the JSON object.

    Raises:
        RecordError: the file is truncated, foreign, over ``max_bytes`` or contradicts itself.
        OSError: the file is missing or not readable.
    """
    path = Path(path)
    if path.is_dir():
        raise RecordError(f"{path.name!r} is a folder; a record is one .safetensors file.")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header, start = _header(file, path.name, size)
        meta = _meta(header.pop("__metadata__", None), path.name)
        if size > max_bytes:
            raise RecordError(
                f"{path.name!r} holds {size:,} bytes, the limit is {max_bytes:,}; "
                "raise it with max_bytes= if you trust the file."
            )
        layout = _layout(header, path.name, size - start)
        return {name: _array(file, start, *entry) for name, entry in layout.items()}, meta


def _header(file: BinaryIO, name: str, size: int) -> tuple[dict[str, Any], int]:
    """The header and the position of the first data byte."""
    length = int.from_bytes(file.read(8), "little")
    # The brace is checked first: in a PNG or a zip the "length" is an arbitrary huge number.
    if size < 10 or file.read(1) != b"{":
        raise _foreign(name)
    if length > MAX_HEADER:
        raise RecordError(
            f"{name!r} claims a header of {length:,} bytes, the limit is {MAX_HEADER:,}; "
            "the file is damaged or not a record: save it again."
        )
    if length > size - 8:
        raise _truncated(name, 8 + length, size)
    file.seek(8)
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise _foreign(name) from None
    if not isinstance(header, dict):
        raise _foreign(name)
    return header, 8 + length


def _meta(metadata: object, name: str) -> dict[str, Any]:
    text = metadata.get(KEY) if isinstance(metadata, dict) else None
    try:
        meta = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise _foreign(name)
    return meta


def _layout(
    header: Mapping[str, Any], name: str, room: int
) -> dict[str, tuple[type[np.generic], tuple[int, ...], int]]:
    """dtype, shape and offset of each array, after every claim has been compared."""
    if len(header) > MAX_TENSORS:
        raise RecordError(f"{name!r} lists {len(header):,} arrays, the limit is {MAX_TENSORS:,}.")
    layout = {}
    spans = []
    for key, entry in header.items():
        dtype, shape, begin, end = _entry(entry, name, key)
        if end > room:
            raise _truncated(name, end, room)
        if math.prod(shape) * np.dtype(dtype).itemsize != end - begin:
            raise RecordError(
                f"{name!r} contradicts itself: {key!r} claims the shape {list(shape)} "
                f"in {end - begin:,} bytes; the file is damaged: save it again."
            )
        layout[key] = (dtype, shape, begin)
        spans.append((begin, end))
    _check_spans(sorted(spans), name, room)
    return layout


def _entry(entry: Any, name: str, key: str) -> tuple[type[np.generic], tuple[int, ...], int, int]:
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _unreadable(name, key) from None
    numbers = (*shape, begin, end)
    plain = all(type(number) is int and 0 <= number < 2**48 for number in numbers)
    if not plain or begin > end or len(shape) > 8:
        raise _unreadable(name, key)
    return dtype, shape, begin, end


def _check_spans(spans: list[tuple[int, int]], name: str, room: int) -> None:
    """Arrays must fill the file without holes or overlaps.

    Were one byte read twice, a small file could ask for any amount of memory.
    """
    position = 0
    for begin, end in spans:
        if begin != position:
            raise RecordError(
                f"{name!r} contradicts itself: its arrays leave a hole or overlap at byte "
                f"{position:,}; the file is damaged: save it again."
            )
        position = end
    if position != room:
        raise RecordError(
            f"{name!r} has {room - position:,} bytes that belong to no array; "
            "the file is damaged: save it again."
        )


def _array(
    file: BinaryIO, start: int, dtype: type[np.generic], shape: tuple[int, ...], begin: int
) -> NDArray[Any]:
    file.seek(start + begin)
    array: NDArray[Any] = np.fromfile(file, dtype=dtype, count=math.prod(shape)).reshape(shape)
    return array


def _foreign(name: str) -> RecordError:
    return RecordError(
        f"{name!r} is not a record of ldmkit (whatever its name says); "
        "open a file that save() wrote."
    )


def _truncated(name: str, claimed: int, real: int) -> RecordError:
    return RecordError(
        f"{name!r} claims {claimed:,} bytes and holds {real:,}: it is cut off or damaged; "
        "copy or save it again."
    )


def _unreadable(name: str, key: str) -> RecordError:
    return RecordError(
        f"{name!r} describes {key!r} in a way that records never do; "
        "the file is damaged or not a record: save it again."
    )
