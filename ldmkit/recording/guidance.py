"""Guidance told apart: which of the network's answers had the words, and how far they were pushed.

Classifier-free guidance asks the network twice (arXiv 2207.12598, eq. 6, as diffusers counts):

    guided = uncond + scale · (text - uncond)

in one batch or in two calls, in an order of each family's own. The guided answer itself, which the
scheduler gets, tells the two apart, since a scale above 1 takes text more than once and uncond
less than none: no table of orders is needed where both differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sides", "sides"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_SURE = 0.02  # a scale nearer than this to 0..1 decides nothing
_ROUNDING = 0.02  # of what guidance moved, that half precision leaves
_UNEXPLAINED = 0.9  # of what guidance moved: more, and it was no sum of the two


@dataclass(frozen=True)
class Sides:
    """The network's answers of a run.

    Attributes:
        text: (n, ...) with the words; ``None`` where they are lost.
        uncond: (n, ...) without them, NaN where guidance was off; ``None`` where it always was.
        scales: (n,) guidance as measured, 1 where it was off, NaN where nothing tells.
    """

    text: Float32 | None
    uncond: Float32 | None
    scales: Float64


def sides(guided: Float32, parts: Sequence[Sequence[Float32]], words_first: bool) -> Sides | None:
    """Tells the network's answers apart, or ``None`` where they can't be.

    Args:
        guided: (n, b, ...) what the scheduler got in each step.
        parts: for each step, what the network gave for it: one answer (b, ...) or two.
        words_first: the usual order of the family, for where the numbers decide nothing.
    """
    two = np.array([len(answers) == 2 for answers in parts])
    if not two.any():
        return Sides(guided, None, np.ones(len(guided)))
    pairs = [answers for answers in parts if len(answers) == 2]
    first, second = (np.stack([pair[i] for pair in pairs]) for i in (0, 1))
    fit = _fit(guided[two], first, second)
    if fit is None:
        return None
    share, sign, exact = fit  # (m,): guided = sign · (first + share · (second - first))
    typical = np.nanmedian(share) if np.isfinite(share).any() else 0.5
    swapped = typical < 0.5 if abs(typical - 0.5) > 0.5 + _SURE else words_first
    with_words, without = (first, second) if swapped else (second, first)
    # Unguided, the answer with the words is what the scheduler got.
    text, uncond = guided.copy(), np.full_like(guided, np.nan)
    text[two], uncond[two] = sign * with_words, sign * without
    scales = np.ones(len(guided))
    scales[two] = np.where(exact, 1.0 - share if swapped else share, np.nan)
    return Sides(text, uncond, scales)


def _fit(guided: Float32, first: Float32, second: Float32) -> tuple[Float64, float, Any] | None:
    """Least squares of guided = a · first + d · (second - first), for each step and picture.

    ``a`` is 1, or another where the result was scaled after (``guidance_rescale``), and negative
    where a pipeline turns the network's sign.
    """
    shape = (*guided.shape[:2], -1)
    g, p, q = (array.astype(np.float64).reshape(shape) for array in (guided, first, second))
    d = q - p
    pp, pd, dd, gp, gd = (_dot(*pair) for pair in ((p, p), (p, d), (d, d), (g, p), (g, d)))
    with np.errstate(all="ignore"):
        determinant = pp * dd - pd**2
        a = (gp * dd - gd * pd) / determinant
        b = (gd * pp - gp * pd) / determinant
        rest = g - a[..., None] * p - b[..., None] * d
        unexplained = np.sqrt(_dot(rest, rest) / dd) / np.abs(b)
        share = np.where(dd > 1e-12 * pp, b / a, np.nan)  # (n, b)
    known = np.isfinite(share) & np.isfinite(unexplained)
    if known.any() and np.median(unexplained[known]) > _UNEXPLAINED:
        return None
    sign = -1.0 if known.any() and np.median(a[known]) < 0 else 1.0
    rows = zip(share, known, strict=True)
    shares = np.array([np.median(row[ok]) if ok.any() else np.nan for row, ok in rows])
    return shares, sign, np.nanmax(unexplained, axis=1, initial=0.0) < _ROUNDING


def _dot(x: Float64, y: Float64) -> Float64:
    return np.asarray(np.einsum("nbk,nbk->nb", x, y))
