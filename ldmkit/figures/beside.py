"""Several records side by side under one slider: which step stands beside which.

Runs of 8 and of 32 steps are lined up by noise: at every position of the slider each run shows
its step whose noise is nearest. That holds for a run that was stopped and for one that began from
a picture, too, where "halfway through" would compare what can't be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldmkit.figures.frames import MAX_BYTES, Payload, json_numbers, trajectory_payload
from ldmkit.figures.words import details, lane_words, prompt_of, shorten
from ldmkit.records import Trajectory

__all__ = ["Alignment", "align", "comparison_payload"]

BY_NOISE = "Lined up by noise: each run shows its step nearest to this mix."
BY_SHARE = (
    "Lined up by the share of their steps, halfway beside halfway: "
    "a run among them doesn't tell how much noise its steps hold."
)


@dataclass(frozen=True)
class Alignment:
    """Which step of each record stands at each of T positions of one slider.

    Attributes:
        steps: for each record T of its steps, counted from 0.
        alphas: (T,) share of the picture at a position.
        sigmas: (T,) share of the noise at a position.
        timesteps: (T,) as the scheduler counts; NaN where the records differ.
        words: how the records are lined up, for the reader; empty where all do the same.
    """

    steps: tuple[tuple[int, ...], ...]
    alphas: NDArray[np.float64]
    sigmas: NDArray[np.float64]
    timesteps: NDArray[np.float64]
    words: str


def align(trajs: Sequence[Trajectory]) -> Alignment:
    """Lines records up by noise level.

    The level of a step is the angle atan2(sigma, alpha), which is the same for variance-preserving
    and variance-exploding schedulers (arXiv 2202.00512, appendix D). Positions are the steps
    of the longest record; where another begins noisier or ends cleaner, they go on with its.
    """
    longest = max(trajs, key=lambda traj: len(traj.timesteps))
    if all(_same(traj, longest) for traj in trajs):
        whole = tuple(range(len(longest.timesteps)))
        numbers = (longest.alphas, longest.sigmas, longest.timesteps)
        return Alignment((whole,) * len(trajs), *numbers, "")
    unknown = np.full(len(longest.timesteps), np.nan)
    levels = [np.arctan2(traj.sigmas, traj.alphas) for traj in trajs]
    if not all(np.isfinite(level).all() for level in levels):
        shares = np.linspace(0, 1, len(unknown))
        steps = tuple(tuple(_by_share(shares, len(level))) for level in levels)
        return Alignment(steps, longest.alphas, longest.sigmas, unknown, BY_SHARE)
    ticks, shares = _ticks(levels, np.arctan2(longest.sigmas, longest.alphas))
    steps = tuple(tuple(_by_noise(ticks, shares, level)) for level in levels)
    return Alignment(steps, np.cos(ticks), np.sin(ticks), np.full(len(ticks), np.nan), BY_NOISE)


def _same(a: Trajectory, b: Trajectory) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
        for name in ("timesteps", "alphas", "sigmas")
    )


def _ticks(
    levels: Sequence[NDArray[np.float64]], own: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles of the positions, (T,), and how far through the run each lies, (T,) in 0..1."""
    shares = np.linspace(0, 1, len(own))
    hidden = []
    for level in levels:
        shown = set(_by_noise(own, shares, level))
        hidden += [level[i] for i in range(len(level)) if i not in shown]
    # Half a thousandth of the way from picture to noise is no difference to see.
    beyond = np.unique(np.round(hidden, 3))[::-1]
    noisier, cleaner = beyond[beyond > own.max()], beyond[beyond < own.min()]
    ticks = np.concatenate([noisier, own, cleaner])
    return ticks, np.pad(shares, (len(noisier), len(cleaner)), constant_values=(0, 1))


def _by_noise(
    ticks: NDArray[np.float64], shares: NDArray[np.float64], level: NDArray[np.float64]
) -> list[int]:
    """For each tick the step of the nearest level."""
    own = np.linspace(0, 1, len(level))
    # Heun and PNDM visit a level twice: among equals the one as far through the run.
    distance = np.abs(ticks[:, None] - level) + 1e-6 * np.abs(shares[:, None] - own)
    return [int(i) for i in distance.argmin(axis=1)]


def _by_share(shares: NDArray[np.float64], count: int) -> list[int]:
    return [round(share * (count - 1)) for share in shares.tolist()]


def comparison_payload(
    trajs: Sequence[Trajectory],
    batch: int = 0,
    *,
    lanes: Sequence[str],
    max_bytes: int = MAX_BYTES,
) -> Payload:
    """Encodes lanes of several records for one player; a record is a column, a lane is a row.

    Args:
        trajs: the records, from the left.
        batch: which picture of each batch, from 0.
        lanes: what to show, from the top.
        max_bytes: upper limit of ``frames``.

    Returns:
        As ``trajectory_payload``; ``data["runs"]`` holds what that returns for each record, with
        ``"title"``, what sets it apart, and ``"at"``, its frame at each position of the slider.
    """
    lined = align(trajs)
    parts = [
        trajectory_payload(traj, batch, lanes=lanes, max_bytes=max_bytes // len(trajs), words=False)
        for traj in trajs
    ]
    titles, common = _titles(trajs, batch)
    prompts = {shorten(prompt_of(traj, batch), 600) for traj in trajs}
    total = len(lined.alphas)
    data = {
        "version": 1,
        "prompt": prompts.pop() if len(prompts) == 1 else f"{len(trajs)} runs side by side",
        "details": common,
        "total": total,
        "index": list(range(total)),
        "timesteps": json_numbers(lined.timesteps),
        "alphas": json_numbers(lined.alphas),
        "sigmas": json_numbers(lined.sigmas),
        "align": lined.words,
        "lanes": [dict(zip(("title", "caption"), lane_words(lane), strict=True)) for lane in lanes],
        "runs": [
            part.data | {"title": title, "at": _frames(part.data["index"], steps)}
            for part, title, steps in zip(parts, titles, lined.steps, strict=True)
        ],
        "note": " ".join(dict.fromkeys(part.data["note"] for part in parts if part.data["note"])),
    }
    return Payload(data, b"".join(part.frames for part in parts))


def _titles(trajs: Sequence[Trajectory], batch: int) -> tuple[list[str], list[str]]:
    """What sets each record apart, and what all share."""
    told = [[shorten(prompt_of(traj, batch), 80), *details(traj, batch)] for traj in trajs]
    common = [words for words in told[0] if all(words in other for other in told)]
    titles = [" · ".join(words for words in own if words not in common) for own in told]
    if len(set(titles)) < len(titles):  # the same call twice: count them
        titles = [" · ".join(filter(None, [f"Run {k}", t])) for k, t in enumerate(titles, 1)]
    return titles, [words for words in common if words != told[0][0]]


def _frames(index: list[int], steps: Sequence[int]) -> list[int]:
    """Positions in a payload that may show some of the steps only: the last one not beyond."""
    return [max(0, sum(i <= step for i in index) - 1) for step in steps]
