"""A plane through an embedding space: many dimensions drawn on paper, and what that leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldmkit.records.embedding import Embedding, check_same_space, length_of
from ldmkit.records.record import RecordError, frozen

__all__ = ["Plane", "units"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plane:
    """Two directions at right angles on which points are seen.

    Points are taken at length 1, since directions are what a CLIP space compares.

    Attributes:
        mean: (d,) the point that is drawn at (0, 0).
        axes: (2, d) unit vectors.
        explained: (2,) share of the points' variance that each axis shows, 0…1.
        words: what each axis is.
        model: name of the space.
    """

    mean: Float64
    axes: Float64
    explained: Float64
    words: tuple[str, str]
    model: str = ""

    def __post_init__(self) -> None:
        for name in ("mean", "axes", "explained"):
            object.__setattr__(self, name, frozen(name, getattr(self, name), np.float64))

    @classmethod
    def fit(cls, points: Sequence[Embedding]) -> Plane:
        """The plane that shows most of the points' spread: their first two principal components.

        Pearson 1901, "On lines and planes of closest fit to systems of points in space".

        Raises:
            RecordError: fewer than three points, of different models, or a zero vector.
        """
        rows, model = units(points)
        mean = rows.mean(axis=0)
        axes = _principal(rows - mean, 2)
        shares = _explained(rows - mean, axes)
        words = tuple(f"principal component {i + 1}" for i in range(2))
        return cls(mean, axes, shares, (words[0], words[1]), model)

    @classmethod
    def across(cls, first: Sequence[Embedding], second: Sequence[Embedding]) -> Plane:
        """The plane that shows the gap between two groups, and across it most of the rest.

        Its first axis goes from the middle of the first group to that of the second; the second
        is the first principal component of what the first axis leaves.

        Raises:
            RecordError: as in ``fit``, or both groups have one middle.
        """
        rows, model = units([*first, *second])
        middles = rows[: len(first)].mean(axis=0), rows[len(first) :].mean(axis=0)
        gap = middles[1] - middles[0]
        if not np.linalg.norm(gap) > 1e-12:
            raise RecordError("Both groups have the same middle, so no axis leads across.")
        along = gap / np.linalg.norm(gap)
        mean = (middles[0] + middles[1]) / 2
        left = rows - rows.mean(axis=0)
        left = left - np.outer(left @ along, along)
        axes = np.stack([along, _principal(left, 1)[0]])
        shares = _explained(rows - rows.mean(axis=0), axes)
        words = ("along the gap", "across it, where they spread most")
        return cls(mean, axes, shares, words, model)

    def project(self, points: Sequence[Embedding]) -> Float64:
        """(n, 2) coordinates of points, such as a path between those that made the plane.

        Raises:
            RecordError: another space, or a zero vector.
        """
        here = Embedding(np.zeros(len(self.mean), np.float32), "this plane", model=self.model)
        for point in points:
            check_same_space(here, point, "drawn")
        rows, _ = units(points, least=1)
        coordinates: Float64 = (rows - self.mean) @ self.axes.T
        return coordinates


def units(points: Sequence[Embedding], *, least: int = 3) -> tuple[Float64, str]:
    """(n, d) vectors of length 1, and the name of their space.

    Raises:
        RecordError: too few points, of different models, or a zero vector.
    """
    if len(points) < least:
        raise RecordError(f"{least} points at least are needed, got {len(points)}; add some.")
    for point in points[1:]:
        check_same_space(points[0], point, "drawn together")
    rows = np.stack([point.vector for point in points]).astype(np.float64)
    lengths = [length_of(point) for point in points]
    model = next((point.model for point in points if point.model), "")
    return rows / np.array(lengths)[:, None], model


def _principal(centred: Float64, count: int) -> Float64:
    """(count, d) directions of largest variance, each with its largest entry positive."""
    axes: Float64 = np.linalg.svd(centred, full_matrices=False)[2][:count]
    if len(axes) < count:  # a space of one dimension
        raise RecordError(f"A plane needs {count} dimensions, got {centred.shape[1]}.")
    largest = np.abs(axes).argmax(axis=1)
    signs: Float64 = np.sign(axes[np.arange(count), largest])[:, None]
    return axes * signs


def _explained(centred: Float64, axes: Float64) -> Float64:
    whole = (centred**2).sum()
    shown: Float64 = ((centred @ axes.T) ** 2).sum(axis=0)
    return shown / whole if whole else np.zeros(len(axes))
