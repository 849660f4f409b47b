"""Several records side by side under one slider, to keep: in a cell or a page, without a kernel.

Runs of 8 and of 32 steps are lined up by noise: at every position of the slider each run shows
its step whose noise is nearest. That holds for a run that was stopped and for one that began from
a picture, too, where "halfway through" would compare what can't be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.check import short
from ldmkit.figures.captions import details, lane_words, prompt_of
from ldmkit.figures.html import bundled, made_with, shorten, whole_page, write_page
from ldmkit.figures.player import Payload, inlined, json_numbers, trajectory_payload
from ldmkit.figures.sheet import sheet_html, sheet_image, shown_lanes
from ldmkit.figures.webp import MAX_BYTES
from ldmkit.records import RecordError, Trajectory
from ldmkit.records.pictures import LANES, drawable
from ldmkit.records.record import index_of

__all__ = [
    "Alignment",
    "SideBySide",
    "align",
    "checked_lanes",
    "checked_records",
    "comparison_payload",
    "side_by_side",
    "usual_lanes",
]

MOST = 8  # records side by side: more would be stamps
COMPARED = ("latents", "denoised")  # the noise of two runs teaches little at a glance
BY_NOISE = "Lined up by noise: each run shows its step nearest to this mix."
BY_SHARE = (
    "Lined up by the share of their steps, halfway beside halfway: "
    "a run among them doesn't tell how much noise its steps hold."
)


def side_by_side(
    *trajs: Trajectory, batch: int = 0, lanes: Iterable[str] | None = None
) -> SideBySide:
    """Puts records side by side under one slider; the result shows itself in a cell.

    Records of different lengths are lined up by noise, as in ``TrajectoryPanel(*trajs)``, whose
    twin without a kernel this is: it stays alive in a saved notebook and in a page.

    Args:
        *trajs: two to eight records, from the left.
        batch: which picture of each batch, from 0.
        lanes: names of ``traj.pictures``' lanes, from the top; by default noisy picture and
            clean estimate, as far as all records keep them.

    Raises:
        TypeError: not two to eight records, or ``lanes`` is no list.
        ValueError: a lane that the records can't show.
        RecordError: the records keep no lane in common, or the batch has no such picture.
    """
    if len(trajs) < 2:
        raise TypeError(
            f"side_by_side takes two records or more, got {len(trajs)}; one shows itself: end the "
            "cell with it."
        )
    records = checked_records("side_by_side", trajs)
    batch = index_of("batch", batch, min(traj.batch_size for traj in records))
    shown = usual_lanes(records) if lanes is None else lanes
    return SideBySide(records, batch, checked_lanes(records, shown))


class SideBySide:
    """Records under one slider; see ``side_by_side``."""

    def __init__(self, trajs: tuple[Trajectory, ...], batch: int, lanes: tuple[str, ...]) -> None:
        self._trajs, self._batch, self._lanes = trajs, batch, lanes

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Writes one self-contained page (no network, no kernel); returns its path.

        Raises:
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        markup, script = self._fragment()
        footer = made_with("Recorded", self._trajs[0].versions)
        title = f"{len(self._trajs)} runs side by side"
        return write_page(path, whole_page(markup, script, title=title, footer=footer))

    def _fragment(self) -> tuple[str, str]:
        payload = comparison_payload(self._trajs, self._batch, lanes=self._lanes)
        columns = max(3, 12 // len(self._trajs))
        sheets = "".join(
            sheet_html(traj, self._batch, columns=columns, lanes=self._lanes)
            for traj in self._trajs
        )
        return inlined(payload, f'<div class="ldm-sheet">{sheets}</div>')

    def _picture(self) -> Image.Image:
        """The records' contact sheets, one below the other."""
        columns = max(2, 12 // len(self._trajs))  # PNG of noise is large
        sheets = [
            sheet_image(traj, self._batch, columns=columns, lanes=self._lanes)
            for traj in self._trajs
        ]
        size = (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets))
        whole = Image.new("RGB", size, "white")
        y = 0
        for sheet in sheets:
            whole.paste(sheet, (0, y))
            y += sheet.height
        return whole

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return bundled(self._fragment(), self._picture(), repr(self))

    def __repr__(self) -> str:
        return f"SideBySide({', '.join(map(repr, self._trajs))})"


# --- which records and lanes can be drawn together -----------------------------------------------


def checked_records(who: str, trajs: tuple[object, ...]) -> tuple[Trajectory, ...]:
    """The same records, if ``who`` can draw them.

    Raises:
        TypeError: none or too many, or not a record.
        RecordError: a record without steps, or no lane that all of them can draw.
    """
    if not 1 <= len(trajs) <= MOST:
        raise TypeError(
            f"{who} takes 1 to {MOST} records, got {len(trajs)}; show one, or a few that "
            "are to be compared."
        )
    records = tuple(_checked_record(who, traj) for traj in trajs)
    if not _drawable_lanes(records):
        raise RecordError(
            f"{who} needs records with step pictures of one kind, got some that keep no "
            'lane in common; record again with keep=("latents", "denoised").'
        )
    return records


def _checked_record(who: str, traj: object) -> Trajectory:
    if not isinstance(traj, Trajectory):
        raise TypeError(
            f"{who} takes a Trajectory first, got {short(traj)}; make one with "
            "ldmkit.record(pipe, prompt) or open one with Trajectory.open(path)."
        )
    if not len(traj.timesteps):
        raise RecordError(
            f"{who} needs a record of at least one step, got one that was stopped before "
            "its first; record again."
        )
    if not _drawable_lanes((traj,)):
        raise RecordError(
            f"{who} needs a record with step pictures, got one that keeps no lane that "
            'can be drawn; record again with keep=("latents", "denoised").'
        )
    return traj


def usual_lanes(trajs: tuple[Trajectory, ...]) -> list[str]:
    """What is shown where nobody says: of one record three lanes, of several two."""
    can = _drawable_lanes(trajs)
    if len(trajs) == 1:
        return shown_lanes(trajs[0]) or can
    return [lane for lane in COMPARED if lane in can] or can[:1]


def checked_lanes(trajs: tuple[Trajectory, ...], value: object) -> tuple[str, ...]:
    """The same lanes, if every record can draw them.

    Raises:
        TypeError: not a list of names.
        ValueError: none, one twice, or one that cannot be drawn.
    """
    can = _drawable_lanes(trajs)
    which = "this record" if len(trajs) == 1 else "these records"
    choice = f"{which} can show {', '.join(can)}"
    try:
        lanes = None if isinstance(value, str) else tuple(cast("Iterable[Any]", value))
    except TypeError:  # an array of nothing is iterable, too, and raises
        lanes = None
    if lanes is None:
        raise TypeError(f"lanes must be a list of names, got {short(value)}; {choice}.")
    wrong = [lane for lane in lanes if lane not in can]
    if wrong or not lanes or len(set(lanes)) < len(lanes):
        got = short(wrong[0] if wrong else list(lanes))
        raise ValueError(f"lanes must be different names of drawable lanes, got {got}; {choice}.")
    return lanes


def _drawable_lanes(trajs: tuple[Trajectory, ...]) -> list[str]:
    return [lane for lane in LANES if all(drawable(traj, lane) for traj in trajs)]


# --- which step stands beside which --------------------------------------------------------------


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
        places = [np.round(shares * (len(level) - 1)).astype(int) for level in levels]
        steps = tuple(tuple(own.tolist()) for own in places)
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


# --- one player for all --------------------------------------------------------------------------


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
