"""The one door from records to figures.

Records lie below figures, so a record's ``figure``, ``to_html`` and display pass through here,
the one exception that the import contract names. Imports stand inside the functions: a record
that is never shown loads no drawing code.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ldmkit.records.trajectory import Trajectory
    from ldmkit.records.walk import Walk

__all__ = ["figure", "mimebundle", "to_html", "walk_figure", "walk_html", "walk_mimebundle"]


def figure(traj: Trajectory, every: int) -> Figure:
    """The matplotlib figure of a trajectory."""
    from ldmkit.figures.plot import trajectory_figure

    return trajectory_figure(traj, every=every)


def to_html(traj: Trajectory, path: str | PathLike[str], batch: int) -> Path:
    """Writes the self-contained page of a trajectory."""
    from ldmkit.figures.page import write_page

    return write_page(traj, path, batch=batch)


def mimebundle(traj: Trajectory) -> dict[str, Any]:
    """What a notebook cell shows: text/html, image/png, text/plain."""
    from ldmkit.figures.fragment import mimebundle as bundle

    return bundle(traj)


def walk_figure(walk: Walk) -> Figure:
    """The matplotlib figure of a walk."""
    from ldmkit.figures.walk import walk_figure as figure_of

    return figure_of(walk)


def walk_html(walk: Walk, path: str | PathLike[str]) -> Path:
    """Writes the self-contained page of a walk."""
    from ldmkit.figures.walk import write_walk_page

    return write_walk_page(walk, path)


def walk_mimebundle(walk: Walk) -> dict[str, Any]:
    """What a notebook cell shows of a walk: text/html, image/png, text/plain."""
    from ldmkit.figures.walk import walk_mimebundle as bundle

    return bundle(walk)
