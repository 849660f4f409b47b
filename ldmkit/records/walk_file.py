"""A walk as one safetensors file: pictures as uint8, numbers as they are, words as JSON.

Names: ``t``, ``images`` (k, h, w, 3), ``points``, ``embeddings`` (k, d), their words beside them.
Version 1; a reader refuses versions it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.records.embedding import Embedding
from ldmkit.records.errors import RecordError
from ldmkit.records.files import read_record, write_record
from ldmkit.records.walk import Walk

__all__ = ["load", "save"]

FORMAT = "walk"
VERSION = 1
WORDS = (
    "labels",
    "title",
    "axis",
    "space",
    "method",
    "seed",
    "call",
    "model",
    "versions",
    "verdicts",
)
EMBEDDING_WORDS = ("label", "kind", "model", "compound")
MAX_FRAMES = 10_000


def save(walk: Walk, path: str | PathLike[str]) -> Path:
    """Writes the record; see ``Walk.save``."""
    arrays: dict[str, NDArray[Any]] = {
        "t": walk.t,
        "images": np.stack([np.asarray(image) for image in walk.images]),
    }
    if walk.points is not None:
        arrays["points"] = walk.points
    if walk.embeddings:
        arrays["embeddings"] = np.stack([e.vector for e in walk.embeddings])
    words = {name: getattr(walk, name) for name in WORDS}
    words["embeddings"] = [
        {name: getattr(e, name) for name in EMBEDDING_WORDS} for e in walk.embeddings
    ]
    return write_record(path, arrays, {"format": FORMAT, "version": VERSION, **words})


def load(path: str | PathLike[str], *, max_bytes: int) -> Walk:
    """Reads a record; see ``Walk.open``."""
    arrays, meta = read_record(path, max_bytes=max_bytes)
    name = Path(path).name
    if meta.get("format") != FORMAT:
        raise RecordError(f"{name!r} holds {str(meta.get('format'))[:40]!r}, not a walk.")
    if meta.get("version") != VERSION:
        raise RecordError(
            f"{name!r} is of version {str(meta.get('version'))[:20]}, this ldmkit reads "
            f"{VERSION}; install the ldmkit that wrote it or a newer one."
        )
    try:
        return _unpack(arrays, meta)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = error if isinstance(error, RecordError) else f"{type(error).__name__}: {error}"
        raise RecordError(f"{name!r} is not a whole walk: {what}") from None


def _unpack(arrays: Mapping[str, NDArray[Any]], words: Mapping[str, Any]) -> Walk:
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise RecordError(f"images must be (k, h, w, 3) uint8, got {images.shape} {images.dtype}.")
    if len(images) > MAX_FRAMES:
        raise RecordError(f"a walk has at most {MAX_FRAMES:,} pictures, got {len(images):,}.")
    return Walk(
        images=tuple(map(Image.fromarray, images)),
        t=arrays["t"],
        points=arrays.get("points"),
        embeddings=_embeddings(arrays.get("embeddings"), words["embeddings"]),
        **{name: words[name] for name in WORDS},
    )


def _embeddings(vectors: NDArray[Any] | None, words: list[dict[str, Any]]) -> tuple[Embedding, ...]:
    if vectors is None:
        return ()
    return tuple(
        Embedding(vector=vector, **{name: entry[name] for name in EMBEDDING_WORDS})
        for vector, entry in zip(vectors, words, strict=True)
    )
