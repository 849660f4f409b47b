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

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sides", "changes", "sides"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_SURE = 0.02  # a scale nearer than this to 0..1 decides nothing
_ROUNDING = 0.02  # of what guidance moved, that half precision leaves
_UNEXPLAINED = 0.9  # of what guidance moved: more, and it was no sum of the two


@dataclass(frozen=True)
class Sides:
    """The network's answers of a run.

    Attributes:
        text: (n, ...) with the words; ``None`` where the network was not asked with the prompt.
        uncond: (n, ...) without them, NaN where guidance was off; ``None`` where it always was.
        scales: (n,) guidance as measured, 1 where it was off, NaN where nothing tells.
    """

    text: Float32 | None
    uncond: Float32 | None
    scales: Float64


def sides(
    guided: Float32,
    parts: Sequence[Sequence[Float32]],
    answers: Sequence[Sequence[str]],
    latents: Float32,
    described: bool = False,
) -> Sides | None:
    """Tells the network's answers apart, or ``None`` where they can't be.

    Args:
        guided: (n, b, ...) what the scheduler got in each step.
        parts: for each step, what the network gave for it: one answer (b, ...) or several.
        answers: what they are in the family's order, once for each number of answers, or with
            ``"..."`` at its end for more; of two that is asked only where the numbers decide
            nothing.
        latents: (n, b, ...) what entered each step.
        described: the order is that of a family with a row: it holds also where the result is no
            sum of the answers, such as Lumina 2's, which has the norm of the one with words.
    """
    text, uncond = guided.copy(), np.full_like(guided, np.nan)  # one answer had the words
    scales, found, prompted = np.ones(len(guided)), False, True
    orders = {len(order): tuple(order) for order in answers if "..." not in order}
    open_end = next((tuple(order) for order in answers if "..." in order), None)
    counts = np.array([len(step) for step in parts])
    for count in sorted(set(counts[counts > 1].tolist())):
        at = counts == count
        several = np.stack([step for step in parts if len(step) == count])  # (m, count, b, ...)
        fit = _fit(guided[at], several, latents[at])
        order = orders.get(count, open_end if open_end and count > 2 else None)
        if order is None or not {"text", "uncond"} & set(order) or not (fit.sums or described):
            return None
        if count == 2 and set(order) == {"text", "uncond"}:
            order = _order_of_two(fit.shares[:, 1], order) if fit.sums else order
        if "text" in order:
            alone = np.abs(fit.shares[:, order.index("text")] - 1.0) <= _SURE
            if "uncond" not in order and alone.all():  # the other was asked for something else
                continue
            text[at] = fit.turned(several[:, order.index("text")], latents[at])
        else:
            text, prompted = np.full_like(guided, np.nan), False
        if "uncond" in order:
            without, found = order.index("uncond"), True
            uncond[at] = fit.turned(several[:, without], latents[at])
            told = 1.0 - fit.shares[:, without] if count == 2 and prompted else np.nan
            scales[at] = np.where(fit.exact, told, np.nan)
        else:
            scales[at] = np.nan
    return Sides(text if prompted else None, uncond if found else None, scales)


def _order_of_two(share: Float64, usual: tuple[str, ...]) -> tuple[str, ...]:
    """Which of two answers had the words, by the share of the second in the sum of both."""
    typical = np.nanmedian(share) if np.isfinite(share).any() else 0.5
    if abs(typical - 0.5) <= 0.5 + _SURE:
        return usual
    return ("text", "uncond") if typical < 0.5 else ("uncond", "text")


@dataclass(frozen=True)
class _Fit:
    """guided = sum · (first + Σ share_i · (answer_i - first)) + skip · latents, for each step.

    ``sum`` is 1, another where the result was scaled after (``guidance_rescale``), and negative
    where a pipeline turns the network's sign. ``skip`` is 0 but where it converts the answer, as
    from x0 to a velocity (PRX, Stable Diffusion's latent upscaler).
    """

    shares: Float64  # (m, count), of a whole of 1
    total: Float64  # (m, 1, ...)
    skip: Float64 | None  # (m, 1, ...)
    exact: NDArray[np.bool_]  # (m,)
    sums: bool  # what was guided is such a sum at all

    def turned(self, answer: Float32, latents: Float32) -> Float32:
        """An answer as the scheduler would have got it alone."""
        if self.skip is None:  # a sign is the answer's own, a scale is guidance's
            return np.asarray(np.sign(np.median(self.total)) * answer, dtype=np.float32)
        return np.asarray(self.total * answer + self.skip * latents, dtype=np.float32)


def _fit(guided: Float32, parts: Float32, latents: Float32) -> _Fit:
    """Least squares for each step and picture, with the latents only where it fails without."""
    plain, rest = _solved(guided, parts, None)
    if np.median(rest) > _ROUNDING / 20:
        converted, better = _solved(guided, parts, latents)
        if np.median(better) <= min(_ROUNDING, np.median(rest) / 10):
            plain, rest = converted, better
    sums = bool(np.median(rest) <= _UNEXPLAINED)
    count, exact = parts.shape[1], rest.max(axis=1) < _ROUNDING
    known = np.asarray(np.isfinite(plain).all(axis=2))  # (m, b)
    means = np.array(
        [
            np.median(row[ok], axis=0) if ok.any() else np.full(row.shape[1], np.nan)
            for row, ok in zip(plain, known, strict=True)
        ]
    )
    shape = (-1, *(1 for _ in guided.shape[1:]))
    whole = np.where(np.isfinite(means[:, 0]), means[:, 0], 1.0)
    with np.errstate(all="ignore"):  # what was guided may be nothing at all (CFG-Zero*)
        later = means[:, 1:count] / means[:, :1]
    shares = np.concatenate([1.0 - later.sum(axis=1, keepdims=True), later], axis=1)
    skip = means[:, count].reshape(shape) if means.shape[1] > count else None
    return _Fit(shares, whole.reshape(shape), skip, exact, sums)


def _solved(guided: Float32, parts: Float32, latents: Float32 | None) -> tuple[Float64, Float64]:
    """Weights (m, b, count) of first, (second - first) ..., latents; and what they don't explain.

    The latter as a share of what guidance moved, (m, b). Step by step, for the memory's sake.
    """
    each = (slice(i, i + 1) for i in range(len(guided)))
    steps = [
        _solved_step(guided[i], parts[i], None if latents is None else latents[i]) for i in each
    ]
    weights, rest = (np.concatenate(column) for column in zip(*steps, strict=True))
    return weights, rest


def _solved_step(
    guided: Float32, parts: Float32, latents: Float32 | None
) -> tuple[Float64, Float64]:
    m, count, b = parts.shape[:3]
    first, others = parts[:, :1], parts[:, 1:] - parts[:, :1]
    columns = [first, others] if latents is None else [first, others, latents[:, None]]
    basis = np.concatenate(columns, axis=1).reshape(m, -1, b, parts[0, 0, 0].size)
    basis = basis.astype(np.float64).transpose(0, 2, 1, 3)  # (m, b, columns, k)
    wanted = guided.reshape(m, b, -1).astype(np.float64)
    size = np.sqrt(np.einsum("mbck,mbck->mbc", basis, basis))
    scale = np.where(size > 0, size, 1.0)
    basis = basis / scale[..., None]
    gram = np.einsum("mbck,mbdk->mbcd", basis, basis)
    right = np.einsum("mbck,mbk->mbc", basis, wanted)
    broken = ~np.isfinite(gram).all(axis=(2, 3)) | ~np.isfinite(right).all(axis=2)
    gram[broken], right[broken] = 0.0, 0.0  # latents that are NaN solve nothing
    weights = np.einsum("mbcd,mbd->mbc", np.linalg.pinv(gram, rcond=1e-10, hermitian=True), right)
    with np.errstate(all="ignore"):
        missed = wanted - np.einsum("mbc,mbck->mbk", weights, basis)
        moved = np.einsum("mbc,mbck->mbk", weights[..., 1:count], basis[:, :, 1:count])
        rest = np.sqrt((missed**2).sum(axis=2) / (moved**2).sum(axis=2))
        weights = weights / scale
    same = (size[..., 1:count] <= 1e-5 * size[..., :1]).any(axis=2)  # nothing to tell apart
    same |= broken
    weights[same] = np.nan
    return weights, np.where(same | np.isnan(rest), 0.0, rest)


def changes(scales: Float64) -> bool:
    """Whether guidance was another at some steps, or off: then it is exactly 1."""
    known = scales[np.isfinite(scales)]
    return bool((known == 1.0).any() and (scales != 1.0).any()) or bool(
        known.size and np.ptp(known) > 1e-2
    )
