"""Which records and lanes can be drawn together, or one clear sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ldmkit.check import short
from ldmkit.figures.frames import shown_lanes
from ldmkit.records import RecordError, Trajectory
from ldmkit.records.pictures import LANES, drawable

__all__ = ["MOST", "checked_lanes", "checked_records", "usual_lanes"]

MOST = 8  # records side by side: more would be stamps
COMPARED = ("latents", "denoised")  # the noise of two runs teaches little at a glance


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
