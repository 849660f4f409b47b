"""A grid as one safetensors file: pictures as uint8, values by name, words as JSON.

Names: ``images`` (made, H, W, 3) where all pictures have one size, else ``images/0``...;
``made`` says which positions have one; ``values/NAME``. Version 1; a reader refuses versions it
does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.records.errors import RecordError
from ldmkit.records.files import read_record, write_record
from ldmkit.records.grid import Grid

__all__ = ["load", "save"]

FORMAT = "grid"
VERSION = 1
WORDS = ("prompts", "seeds", "measure", "call", "model", "versions")


def save(grid: Grid, path: str | PathLike[str]) -> Path:
    """Writes the record; see ``Grid.save``."""
    arrays: dict[str, NDArray[Any]] = {f"values/{k}": column for k, column in grid.values.items()}
    arrays["made"] = np.array([image is not None for image in grid.images], dtype=np.uint8)
    pixels = [np.asarray(image.convert("RGB")) for image in grid.images if image is not None]
    if len({array.shape for array in pixels}) == 1:
        arrays["images"] = np.stack(pixels)
    else:
        arrays |= {f"images/{i}": array for i, array in enumerate(pixels)}
    words = {name: getattr(grid, name) for name in WORDS}
    words["values"] = list(grid.values)  # safetensors sorts its names
    # A list of pairs: JSON objects keep their order only by courtesy, and the order is meant.
    words["axes"] = [[name, list(labels)] for name, labels in grid.axes.items()]
    return write_record(path, arrays, {"format": FORMAT, "version": VERSION, **words})


def load(path: str | PathLike[str], *, max_bytes: int) -> Grid:
    """Reads a record; see ``Grid.open``."""
    arrays, meta = read_record(path, max_bytes=max_bytes)
    name = Path(path).name
    if meta.get("format") != FORMAT:
        raise RecordError(f"{name!r} holds {str(meta.get('format'))[:40]!r}, not a grid.")
    if meta.get("version") != VERSION:
        raise RecordError(
            f"{name!r} is of version {str(meta.get('version'))[:20]}, this ldmkit reads "
            f"{VERSION}; install the ldmkit that wrote it or a newer one."
        )
    try:
        return _unpack(arrays, meta)
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration) as error:
        what = error if isinstance(error, RecordError) else f"{type(error).__name__}: {error}"
        raise RecordError(f"{name!r} is not a whole grid: {what}") from None


def _unpack(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Grid:
    pictures = _pictures(arrays)
    images = [next(pictures) if made else None for made in arrays["made"].tolist()]
    values = {name: arrays[f"values/{name}"] for name in meta["values"]}
    axes = {name: tuple(labels) for name, labels in meta["axes"]}
    if len(axes) < len(meta["axes"]):
        raise RecordError("two of its axes have one name.")
    words: dict[str, Any] = {name: meta[name] for name in WORDS}
    return Grid(axes=axes, images=tuple(images), values=values, **words)


def _pictures(arrays: Mapping[str, NDArray[Any]]) -> Iterator[Image.Image]:
    if "images" in arrays:
        yield from map(Image.fromarray, arrays["images"])
        return
    for i in range(sum(name.startswith("images/") for name in arrays)):
        yield Image.fromarray(arrays[f"images/{i}"])
