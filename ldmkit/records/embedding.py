"""``Embedding``: one point of a CLIP space, with the words for it and where the space comes from.

A thing to add and to walk between (arXiv 2204.06125, section 3): vectors of one model compare by
their cosine, and sums of them mean something. Vectors of two models don't, even where their
lengths agree, so an embedding remembers its origin and refuses strangers. Numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmkit.check import cut, number, short
from ldmkit.records.record import (
    Arrays,
    RecordError,
    flag_of,
    frozen,
    open_record,
    save_record,
    string,
)

__all__ = ["KINDS", "Embedding", "check_same_space", "length_of"]

WORDS = ("label", "kind", "model", "compound")
# What a vector is. "prior": an image embedding that a prior drew for a text; "path": a point
# between two others; "sum" and "difference" are made of others by + and −.
KINDS = ("text", "image", "prior", "sum", "difference", "path")
LONGEST_LABEL = 400  # characters; the rest of a longer one is cut off with an ellipsis
MAX_DIMENSIONS = 2**20
MAX_BYTES = 64 * 2**20  # the longest vector and words that save() writes, and room


@dataclass(frozen=True, eq=False, repr=False)
class Embedding:
    """A vector of a CLIP space; ``+ − * /`` make new ones whose labels say how.

    Attributes:
        vector: (d,) float32, finite, read-only; its length is what the model gave.
        label: words for people: a caption, a file's name, ``"a cat + 0.5 × (a crown − nothing)"``.
        kind: ``"text"``, ``"image"``, ``"prior"`` (an image embedding that a prior drew),
            ``"sum"``, ``"difference"`` or ``"path"`` (a point between others).
        model: name of the space; ``""`` where nobody said, which mixes with any of its length.
        compound: whether ``label`` needs brackets inside a longer one.

    Raises:
        RecordError: not one finite vector, or a field has the wrong type.
    """

    vector: NDArray[np.float32]
    label: str = ""
    kind: str = "image"
    model: str = ""
    compound: bool = False

    def __post_init__(self) -> None:
        for name in ("label", "kind", "model"):
            string(f"An embedding's {name}", getattr(self, name))
        if self.kind not in KINDS:
            raise RecordError(f"kind must be one of {', '.join(KINDS)}, got {short(self.kind)}.")
        compound = flag_of("An embedding's compound", self.compound)
        object.__setattr__(self, "compound", compound)
        object.__setattr__(self, "label", cut(self.label, LONGEST_LABEL))
        object.__setattr__(self, "vector", _frozen(self.vector))

    # numpy's scalars would otherwise multiply the entries one by one into an array of objects
    __array_ufunc__ = None

    def __len__(self) -> int:
        return len(self.vector)

    @property
    def norm(self) -> float:
        """The vector's Euclidean length, at least 0."""
        return float(np.linalg.norm(self.vector.astype(np.float64)))

    def normalised(self) -> Embedding:
        """The same direction at length 1.

        Raises:
            RecordError: the vector is zero and so has no direction.
        """
        length = self.norm
        if abs(length - 1) <= 1e-6:
            return self
        label = f"norm({self.label})"
        return self._made(self.vector / length_of(self), label, self.kind)

    def similarity(self, other: Embedding) -> float:
        """The cosine of the angle between two vectors of one space, −1…1.

        Raises:
            RecordError: another space, or a zero vector.
            TypeError: not an embedding.
        """
        check_same_space(self, other, "compared")
        lengths = length_of(self) * length_of(other)
        dot = float(self.vector.astype(np.float64) @ other.vector.astype(np.float64))
        return min(1.0, max(-1.0, dot / lengths))

    def _made(
        self,
        vector: NDArray[Any],
        label: str,
        kind: str,
        *,
        model: str = "",
        compound: bool = False,
    ) -> Embedding:
        return Embedding(vector, label, kind, self.model or model, compound)

    def __add__(self, other: Embedding) -> Embedding:
        check_same_space(self, other, "added")
        label = f"{self.label} + {_bracketed(other)}"
        vector = self.vector + other.vector
        return self._made(vector, label, "sum", model=other.model, compound=True)

    def __radd__(self, other: object) -> Embedding:
        if _is_number(other) and other == 0:  # sum() starts with it
            return self
        return NotImplemented

    def __sub__(self, other: Embedding) -> Embedding:
        check_same_space(self, other, "subtracted")
        label = f"{self.label} − {_bracketed(other)}"
        vector = self.vector - other.vector
        return self._made(vector, label, "difference", model=other.model, compound=True)

    def __neg__(self) -> Embedding:
        return self._made(-self.vector, f"−{_bracketed(self)}", "difference", compound=True)

    def __mul__(self, factor: float) -> Embedding:
        weight = _number(factor, "multiplied by")
        label = f"{_written(weight)} × {_bracketed(self)}"
        vector = self.vector.astype(np.float64) * weight
        return self._made(vector, label, self.kind, compound=weight < 0)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Embedding:
        weight = _number(divisor, "divided by")
        if weight == 0:
            raise RecordError("An embedding can't be divided by zero; give another number.")
        label = f"{_bracketed(self)} / {_written(weight)}"
        vector = self.vector.astype(np.float64) / weight
        return self._made(vector, label, self.kind, compound=weight < 0)

    def save(self, path: str | PathLike[str]) -> Path:
        """Writes the embedding as one safetensors file; returns its path.

        Raises:
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        words = {name: getattr(self, name) for name in WORDS}
        return save_record(path, "embedding", {"vector": self.vector}, words)

    @classmethod
    def open(cls, path: str | PathLike[str], *, max_bytes: int = MAX_BYTES) -> Embedding:
        """Reads an embedding that ``save`` wrote.

        Raises:
            RecordError: the file is truncated, foreign, too large or contradicts itself.
            OSError: the file is missing or not readable.
        """
        return open_record(path, "embedding", _unpack, max_bytes=max_bytes)

    def __repr__(self) -> str:
        words = cut(self.label, 60)
        return f"Embedding({words!r}, {self.kind}, {_origin(self)}, length {self.norm:.3g})"


def _unpack(arrays: Arrays, words: dict[str, Any]) -> Embedding:
    return Embedding(arrays["vector"], **{name: words[name] for name in WORDS})


def _frozen(value: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = frozen("An embedding's vector", value, np.float32)
    if array.ndim != 1 or not 0 < array.size <= MAX_DIMENSIONS:
        raise RecordError(
            f"An embedding's vector must have the shape (d,), got {array.shape}; "
            "of a batch give one row."
        )
    if not np.isfinite(array).all():
        wrong = int((~np.isfinite(array)).sum())
        raise RecordError(
            f"An embedding's numbers must be finite, got {wrong} of {array.size} NaN or infinite; "
            "encode with dtype float32."
        )
    return array


def _bracketed(part: Embedding) -> str:
    return f"({part.label})" if part.compound else part.label


def check_same_space(one: Embedding, other: object, what: str) -> None:
    """Refuses what does not lie in the space of an embedding; ``what`` is what can't be done.

    Raises:
        TypeError: no embedding.
        RecordError: of another model.
    """
    if not isinstance(other, Embedding):
        raise TypeError(
            f"An embedding can only be {what} with another, got {type(other).__name__}; "
            "make one with clip.encode_text or clip.encode_image."
        )
    unlike = one.model and other.model and one.model != other.model
    if len(one) != len(other) or unlike:
        raise RecordError(
            f"Only embeddings of one model can be {what}, got {_origin(one)} and "
            f"{_origin(other)}; encode both with one clip_space."
        )


def length_of(one: Embedding) -> float:
    """The length of an embedding that has a direction.

    Raises:
        RecordError: the zero vector.
    """
    if not one.norm:
        raise RecordError(
            f"{one.label or 'This embedding'!r} is the zero vector, which has no direction; "
            "the two sides of a difference are the same: take other words."
        )
    return one.norm


def _origin(one: Embedding) -> str:
    return f"{len(one)} dimensions of {one.model or 'an unnamed model'!r}"


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _number(value: Any, what: str) -> float:
    if not _is_number(value):
        raise TypeError(
            f"An embedding can be {what} a number, got {type(value).__name__}; "
            "a.similarity(b) compares two."
        )
    try:
        return number("", value)
    except ValueError:  # infinite, or 10**400
        raise RecordError(
            f"An embedding must be {what} a finite number, got {short(value)}."
        ) from None


def _written(weight: float) -> str:
    return f"{weight:.3g}".replace("-", "−")
