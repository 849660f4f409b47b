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
    from PIL.Image import Image

    from ldmkit.records.gap import Gap
    from ldmkit.records.grid import Grid
    from ldmkit.records.trajectory import Trajectory
    from ldmkit.records.walk import Walk

__all__ = [
    "figure",
    "gap_figure",
    "gap_mimebundle",
    "grid_figure",
    "grid_html",
    "grid_mimebundle",
    "guidance_figure",
    "mimebundle",
    "to_html",
    "walk_figure",
    "walk_html",
    "walk_image",
    "walk_mimebundle",
]


def figure(traj: Trajectory, every: int) -> Figure:
    """The matplotlib figure of a trajectory."""
    from ldmkit.figures.plot import trajectory_figure

    return trajectory_figure(traj, every=every)


def guidance_figure(traj: Trajectory, step: int, batch: int) -> Figure:
    """The matplotlib figure of one step's guidance."""
    from ldmkit.figures.guidance import guidance_figure as figure_of

    return figure_of(traj, step, batch=batch)


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


def walk_image(walk: Walk) -> Image:
    """The contact sheet of a walk as one picture."""
    from ldmkit.figures.walk import walk_image as image_of

    return image_of(walk)


def walk_mimebundle(walk: Walk) -> dict[str, Any]:
    """What a notebook cell shows of a walk: text/html, image/png, text/plain."""
    from ldmkit.figures.walk import walk_mimebundle as bundle

    return bundle(walk)


def grid_figure(grid: Grid, rows: int) -> Figure:
    """The matplotlib figure of a grid."""
    from ldmkit.figures.grid_plot import grid_figure as figure_of

    return figure_of(grid, rows=rows)


def grid_html(grid: Grid, path: str | PathLike[str]) -> Path:
    """Writes the self-contained page of a grid."""
    from ldmkit.figures.grid import write_grid_page

    return write_grid_page(grid, path)


def grid_mimebundle(grid: Grid) -> dict[str, Any]:
    """What a notebook cell shows of a grid: text/html, image/png, text/plain."""
    from ldmkit.figures.grid import grid_mimebundle as bundle

    return bundle(grid)


def gap_figure(gap: Gap) -> Figure:
    """The matplotlib figure of a gap."""
    from ldmkit.figures.gap import gap_figure as figure_of

    return figure_of(gap)


def gap_mimebundle(gap: Gap) -> dict[str, Any]:
    """What a notebook cell shows of a gap: text/html, image/png, text/plain."""
    from ldmkit.figures.gap import gap_mimebundle as bundle

    return bundle(gap)
