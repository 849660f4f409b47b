"""Ways from one point to another: ``slerp`` on the sphere, ``lerp`` on the straight line.

Vectors of a CLIP space mean something by their direction, and noise lies on a thin shell (in d
dimensions at a length of about √d). The straight line between two such vectors leaves the sphere
and cuts through its inside, where nothing was ever trained; slerp walks the great circle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmkit.check import choice, short
from ldmkit.records.embedding import Embedding, check_same_space

__all__ = ["leg", "lerp", "path", "slerp"]

Float64 = NDArray[np.float64]
Walk = Callable[[Float64, Float64, float], Float64]  # two vectors (d,) and t


def slerp(a: Any, b: Any, t: Any) -> Any:
    """Walks the great circle from ``a`` to ``b``: spherical linear interpolation.

    With Ω the angle between the two (Shoemake 1985, "Animating rotation with quaternion curves";
    used on CLIP embeddings and on noise by DALL-E 2, arXiv 2204.06125, section 3.2):

        slerp(a, b, t) = sin((1 − t)·Ω)/sin Ω · a + sin(t·Ω)/sin Ω · b

    for vectors of one length; of two lengths, the direction follows this and the length changes
    in proportion to t. Where the great circle is not defined: equal directions and zero vectors
    walk the straight line, opposite ones a half circle in a plane that is always the same.

    Args:
        a: numpy array, torch tensor or ``Embedding``; an array of any shape is one vector.
        b: the same kind and shape.
        t: how far, 0…1; a sequence of n gives n points.

    Returns:
        The kind of ``a`` in its own precision (computed in float64, without gradients); exactly
        ``a`` at 0 and ``b`` at 1. With n values of t an array (n, ...), or a list of embeddings.

    Raises:
        TypeError: two different kinds.
        ValueError: shapes or spaces differ, ``t`` outside 0…1, or numbers that aren't finite.
    """
    return _between(a, b, t, _great_circle)


def lerp(a: Any, b: Any, t: Any) -> Any:
    """Walks the straight line: (1 − t)·a + t·b; arguments and errors as in ``slerp``."""
    return _between(a, b, t, _straight)


def path(ends: Sequence[Any], t: Any, *, method: str = "slerp") -> Any:
    """Walks through several ends, which are reached at even distances of t.

    Args:
        ends: two or more arrays, tensors or embeddings of one kind and shape.
        t: how far, 0…1; a sequence of n gives n points. Of k ends, end i is met at i/(k − 1).
        method: ``"slerp"`` or ``"lerp"`` between neighbours.

    Returns:
        As ``slerp``.

    Raises:
        TypeError: ends of different kinds.
        ValueError: fewer than two ends, an unknown method, or as ``slerp``.
    """
    ends = list(ends)
    if len(ends) < 2:
        raise ValueError(f"A path needs two ends or more, got {len(ends)}; give a list of them.")
    choice("method", method, METHODS)
    several, numbers = _times(t)
    points = []
    for number in numbers:
        first, share = leg(number, len(ends))
        points.append(_between(ends[first], ends[first + 1], share, METHODS[method]))
    return _gathered(points) if several else points[0]


def leg(t: float, ends: int) -> tuple[int, float]:
    """Between which ends a place lies: the first of the two, and the share of the next, 0…1.

    A place that only rounding keeps from an end is that end: 3/5 of five legs is 3.0000000000000004
    in floating point where ``t`` came as 0.6000000000000001.
    """
    position = t * (ends - 1)
    if abs(position - round(position)) <= 1e-12 * ends:
        position = round(position)
    first = min(int(position), ends - 2)
    return first, float(position - first)


def _between(a: Any, b: Any, t: Any, walk: Walk) -> Any:
    several, numbers = _times(t)
    _check_kinds(a, b)
    if isinstance(a, Embedding):
        points = [_embedding(a, b, number, walk) for number in numbers]
        return points if several else points[0]
    here, there = _finite(a), _finite(b)
    if here.shape != there.shape:
        raise ValueError(
            f"Both ends must have one shape, got {here.shape} and {there.shape}; "
            "two spaces don't mix."
        )
    points = [_like(a, _at(here, there, number, walk)) for number in numbers]
    return _gathered(points) if several else points[0]


def _embedding(a: Embedding, b: Embedding, t: float, walk: Walk) -> Embedding:
    check_same_space(a, b, "walked between")
    if t in (0, 1):
        return b if t else a
    vector = _at(a.vector.astype(np.float64), b.vector.astype(np.float64), t, walk)
    label = f"{a.label} → {b.label} at {t:.2g}"
    return Embedding(vector.astype(np.float32), label, "path", a.model or b.model, compound=True)


def _at(a: Float64, b: Float64, t: float, walk: Walk) -> Float64:
    if t in (0, 1):  # the ends come back to the bit
        return b if t else a
    return walk(a.ravel(), b.ravel(), t).reshape(a.shape)


def _straight(a: Float64, b: Float64, t: float) -> Float64:
    return (1 - t) * a + t * b


def _great_circle(a: Float64, b: Float64, t: float) -> Float64:
    length_a, length_b = _length(a), _length(b)
    if length_a == 0 or length_b == 0 or len(a) == 1:  # no direction, or no circle to walk on
        return _straight(a, b, t)
    u, v = a / length_a, b / length_b
    # Kahan's angle: exact near 0 and π too, where the arc cosine loses half of the digits.
    omega = 2 * math.atan2(_length(u - v), _length(u + v))
    if omega < 1e-9:
        return _straight(a, b, t)
    across = v - (u @ v) * u if math.pi - omega > 1e-6 else _perpendicular(u)
    direction = math.cos(t * omega) * u + math.sin(t * omega) * across / _length(across)
    return ((1 - t) * length_a + t * length_b) * direction


def _perpendicular(u: Float64) -> Float64:
    """A direction at right angles to a unit vector, the same one each time."""
    across = np.zeros_like(u)
    across[np.argmin(np.abs(u))] = 1.0
    return across - (across @ u) * u


def _length(vector: Float64) -> float:
    # Scaled first: the squares of 1e-200 or 1e200 are 0 or infinite.
    largest = float(np.abs(vector).max(initial=0.0))
    return largest * float(np.linalg.norm(vector / largest)) if largest else 0.0


def _times(t: Any) -> tuple[bool, list[float]]:
    advice = "t must be a number between 0 and 1, or a row of them"
    try:
        given = np.asarray(t.detach().cpu() if hasattr(t, "detach") else t)
        array = given.astype(np.float64) if given.dtype.kind in "iuf" else None
    except (TypeError, ValueError):
        array = None
    if array is None:
        raise TypeError(f"{advice}, got {short(t)}.")
    if array.ndim > 1 or not array.size:
        raise ValueError(f"{advice}, got the shape {array.shape}.")
    if not ((array >= 0) & (array <= 1)).all():  # NaN fails too
        raise ValueError(f"{advice}, got {short(t)}.")
    return array.ndim == 1, [float(number) for number in array.ravel()]


def _check_kinds(a: Any, b: Any) -> None:
    unlike = isinstance(a, Embedding) != isinstance(b, Embedding)
    if unlike or hasattr(a, "detach") != hasattr(b, "detach"):
        raise TypeError(
            "Both ends must be of one kind (arrays, tensors or embeddings), got "
            f"{short(a)} and {short(b)}."
        )


def _finite(value: Any) -> Float64:
    # float() before numpy: it has no bfloat16
    plain = value.detach().cpu().double().numpy() if hasattr(value, "detach") else value
    try:
        array = np.asarray(plain, dtype=np.float64)
        # None and False become numbers, words are read as such: neither is a place in a space.
        known = np.asarray(plain).dtype.kind in "iuf"
    except (TypeError, ValueError, OverflowError):
        known = False
    if not known:
        raise TypeError(f"A path's ends must be arrays, tensors or embeddings, got {short(value)}.")
    if not array.size or not np.isfinite(array).all():
        raise ValueError(
            f"A path's ends must be finite numbers, got {array.size} of which "
            f"{int((~np.isfinite(array)).sum())} are NaN or infinite."
        )
    return array


def _like(a: Any, point: Float64) -> Any:
    if hasattr(a, "detach"):
        floating = a if a.is_floating_point() else a.double()
        return floating.detach().new_tensor(point)
    given = np.asarray(a).dtype
    return point.astype(given if given.kind == "f" else np.float64)


def _gathered(points: list[Any]) -> Any:
    if isinstance(points[0], Embedding):
        return points
    if hasattr(points[0], "detach"):
        import torch

        return torch.stack(points)
    return np.stack(points)


METHODS: Mapping[str, Walk] = {"slerp": _great_circle, "lerp": _straight}
