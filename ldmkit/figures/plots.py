"""Trajectories, walks and grids as matplotlib figures, for slides and for drawing on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldmkit.figures.canvas import NOISE, PICTURE, shown_figure
from ldmkit.figures.captions import details, lane_words, prompt_of
from ldmkit.figures.grid import THUMB, Row, along, laid_out, say, title_of
from ldmkit.figures.grid import details as grid_details
from ldmkit.figures.html import shorten
from ldmkit.figures.sheet import fitted_picture, shown_lanes
from ldmkit.figures.walk import COLUMNS, axis_of, place_of
from ldmkit.figures.walk import details as walk_details
from ldmkit.records import Trajectory
from ldmkit.records.grid import AVERAGED, Grid
from ldmkit.records.pictures import every_nth, is_crisp, is_picture, lane_array
from ldmkit.records.record import index_of, whole_of
from ldmkit.records.rgb import flat
from ldmkit.records.walk import Walk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["grid_figure", "trajectory_figure", "walk_figure"]

COLOURS = (PICTURE, NOISE, "#d98200", "#3b6fb6", "#5b8c2a", "#7a5c3e", "#c23b3b", "#666666")
# Curves that coincide (DDIM and Euler do) must both be seen: large and hollow under small.
MARKERS = (("o", 9), ("s", 7), ("^", 6), ("D", 4), ("v", 4), ("P", 4), ("X", 4), (".", 4))
GAP = 6


def trajectory_figure(traj: Trajectory, *, every: int = 4, batch: int = 0) -> Figure:
    """Every ``every``-th step of each lane above the plot of alpha and sigma.

    The last step is always shown, the final picture stands at the right.

    Raises:
        RecordError: ``every`` is not a whole number of at least 1, or the batch has no such
            picture.
    """
    every = whole_of("every", every, 1)
    batch = index_of("batch", batch, traj.batch_size)
    lanes = shown_lanes(traj)
    n = len(traj.timesteps)
    steps = every_nth(n, every)
    columns, rows = max(2, len(steps)), max(1, len(lanes))
    fig = shown_figure((1.15 * columns + 3.2, 1.25 * rows + 1.9))
    grid = fig.add_gridspec(
        rows + 1, columns + 1, height_ratios=[*[1.0] * rows, 0.8], width_ratios=[*[1] * columns, 2]
    )
    lines = shorten(prompt_of(traj, batch), 80), shorten(" · ".join(details(traj, batch)), 110)
    fig.suptitle("\n".join(lines).replace("$", r"\$"), fontsize=10)  # a prompt is no formula
    for row, lane in enumerate(lanes):
        _draw_lane(fig, grid, row, lane, traj, steps, batch)
    if batch < len(traj.images):
        axes = fig.add_subplot(grid[:rows, -1] if n else grid[:, :])
        axes.imshow(flat(traj.images[batch]), interpolation="bicubic")
        axes.set_title("final picture", fontsize=8)
        axes.set_axis_off()
    if not n:  # read from a PNG: the picture and the call, no steps
        return fig
    schedule = fig.add_subplot(grid[-1, :-1])
    _draw_schedule(schedule, traj, steps)
    words = fig.add_subplot(grid[-1, -1])
    words.set_axis_off()
    words.legend(*schedule.get_legend_handles_labels(), fontsize=7, frameon=False, loc="center")
    return fig


def _draw_lane(
    fig: Figure, grid: Any, row: int, lane: str, traj: Trajectory, steps: list[int], batch: int
) -> None:
    frames = lane_array(traj, lane, batch)
    title = lane_words(lane)[0] + ("" if is_picture(lane) else "\n(not a picture)")
    for column, i in enumerate(steps):
        axes = fig.add_subplot(grid[row, column])
        how = "nearest" if is_crisp(traj, lane) else "bicubic"
        axes.imshow(frames[i], interpolation=how)
        axes.set_xticks([])
        axes.set_yticks([])
        if row == 0:
            axes.set_title(f"step {i + 1}\nt = {traj.timesteps[i]:.4g}", fontsize=8)
        if column == 0:
            axes.set_ylabel(title, fontsize=8)


def _draw_schedule(axes: Axes, traj: Trajectory, steps: list[int]) -> None:
    numbers = range(1, len(traj.timesteps) + 1)
    axes.plot(numbers, traj.alphas, color=PICTURE, label="alpha: share of the picture")
    axes.plot(numbers, traj.sigmas, color=NOISE, label="sigma: share of the noise")
    axes.plot([i + 1 for i in steps], traj.alphas[steps], "o", color=PICTURE, markersize=3)
    axes.plot([i + 1 for i in steps], traj.sigmas[steps], "o", color=NOISE, markersize=3)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


# --- a walk --------------------------------------------------------------------------------------


def walk_figure(walk: Walk, *, columns: int = COLUMNS) -> Figure:
    """The pictures in rows; below them, of embeddings, the cosine to both ends."""
    rows = -(-len(walk) // columns)
    across = min(columns, len(walk))
    plotted = len(walk.embeddings) > 2 and all(e.norm > 0 for e in walk.embeddings)
    height = 1.45 * rows + 0.75 + 1.5 * plotted
    fig = shown_figure((max(4.5, 1.2 * across), height))
    ratios = [1.45] * rows + [1.5] * plotted
    grid = fig.add_gridspec(rows + plotted, across, height_ratios=ratios)
    title = f"{shorten(walk.title, 80)}\n{shorten(' · '.join(walk_details(walk)), 110)}"
    fig.suptitle(title.replace("$", r"\$"), fontsize=10)
    for i, image in enumerate(walk.images):
        axes = fig.add_subplot(grid[i // across, i % across])
        axes.imshow(image)
        axes.set_title(place_of(walk, i).replace("$", r"\$"), fontsize=8)
        axes.set_axis_off()
    if plotted:
        _plot_similarity(fig.add_subplot(grid[-1, :]), walk)
    return fig


def _plot_similarity(axes: Any, walk: Walk) -> None:
    for end, colour, name in ((0, PICTURE, "first"), (-1, NOISE, "last")):
        cosines = [e.similarity(walk.embeddings[end]) for e in walk.embeddings]
        axes.plot(walk.t, cosines, "o-", color=colour, markersize=3, label=f"cosine to the {name}")
    axes.set_xlabel(axis_of(walk).replace("$", r"\$"), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)


# --- a grid --------------------------------------------------------------------------------------


def grid_figure(grid: Grid, *, rows: int = 8) -> Figure:
    """Rows of pictures; below them score and seconds along the columns' axis, with 95 % bands.

    Raises:
        RecordError: ``rows`` is not a whole number of at least 1.
    """
    rows = whole_of("rows", rows, 1)
    headings, all_rows = laid_out(grid)
    shown = all_rows[:rows]
    columns = max(len(row.positions) for row in shown)
    known = [name for name in ("score", "seconds") if name in grid.values and _curved(grid)]
    plotted = [name for name in known if np.isfinite(grid.values[name]).any()]
    plotted = ["decided"] if grid.shares and plotted else plotted
    tall = 0.85 * len(shown) + 0.3 * len({row.group for row in shown})
    fig = shown_figure((max(6.5, 0.85 * columns + 2.2), tall + 0.9 + (2.6 if plotted else 0)))
    ratios = [tall, 2.6] if plotted else [tall]
    places = fig.add_gridspec(len(ratios), max(1, len(plotted)), height_ratios=ratios)
    more = f" ({len(shown)} of {len(all_rows)} rows shown)" if len(shown) < len(all_rows) else ""
    lines = shorten(title_of(grid), 80), shorten(" · ".join(grid_details(grid)), 100) + more
    fig.suptitle("\n".join(lines).replace("$", r"\$"), fontsize=10)
    _draw_pictures(fig.add_subplot(places[0, :]), grid, headings, shown)
    for k, name in enumerate(plotted):
        axes = fig.add_subplot(places[1, k])
        if name == "decided":
            _draw_decided(axes, grid)
            continue
        _draw_curves(axes, grid, name)
        if k == 0 and _lines(grid)[0]:
            axes.legend(fontsize=7, frameon=False)
    return fig


def _curved(grid: Grid) -> bool:
    """Whether there is an axis to draw curves along: two numbers or more."""
    labels = grid.axes[along(grid)]
    numbers = all(
        isinstance(label, (int, float)) and not isinstance(label, bool) for label in labels
    )
    return numbers and len(labels) > 1 and along(grid) not in AVERAGED


def _draw_pictures(axes: Axes, grid: Grid, headings: list[str], rows: list[Row]) -> None:
    columns = max(len(row.positions) for row in rows)
    tops, y, group = [], 0, ""
    for row in rows:
        y += 22 if row.group != group else 0  # room for the caption
        group = row.group
        tops.append(y)
        y += THUMB + GAP
    canvas: NDArray[np.uint8] = np.full((y, columns * (THUMB + GAP), 3), 255, dtype=np.uint8)
    for row, top in zip(rows, tops, strict=True):
        for k, position in enumerate(row.positions):
            if (image := grid.images[position]) is not None:
                pixels = np.asarray(fitted_picture(image, THUMB))
                left = k * (THUMB + GAP)
                canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    axes.imshow(canvas, interpolation="antialiased")
    for row, top, before in zip(rows, tops, ["", *(row.group for row in rows)], strict=False):
        if row.group != before:
            axes.text(0, top - 6, _plain(row.group, 90), fontsize=8, style="italic")
    middles = [k * (THUMB + GAP) + THUMB / 2 for k in range(columns)]
    axes.set_xticks(middles if headings else [], [_plain(words, 16) for words in headings])
    axes.set_yticks([top + THUMB / 2 for top in tops], [_plain(row.label, 24) for row in rows])
    axes.xaxis.tick_top()
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_visible(False)


def _lines(grid: Grid) -> tuple[list[str], list[dict[str, Any]]]:
    """The axes that make one curve each, and their combinations."""
    names = [name for name in grid.axes if name not in AVERAGED and name != along(grid)]
    combinations = itertools.product(*(grid.axes[name] for name in names))
    return names, [dict(zip(names, labels, strict=True)) for labels in combinations]


def _points(grid: Grid, name: str, labels: dict[str, Any]) -> NDArray[np.float64]:
    """(labels of the axis, 3): the value and the ends of its interval."""
    axis = along(grid)
    found = []
    for label in grid.axes[axis]:
        point = {**labels, axis: label}
        if name == "score":
            found.append(tuple(grid.estimate(name, **point)))
        else:  # the median, as in the table: one slow run must not count
            known = grid.select(**point).values[name]
            known = known[np.isfinite(known)]
            found.append((float(np.median(known)) if len(known) else np.nan,) * 3)
    return np.array(found, dtype=np.float64)


def _draw_curves(axes: Axes, grid: Grid, name: str) -> None:
    axis = along(grid)
    x = [float(label) for label in grid.axes[axis]]  # type: ignore[arg-type]
    order = np.argsort(x)
    for k, labels in enumerate(_lines(grid)[1][: len(COLOURS)]):
        points = _points(grid, name, labels)[order]
        made = np.isfinite(points[:, 0])  # a student has its own number of steps alone
        value, low, high = points[made].T
        marker, size = MARKERS[k % len(MARKERS)]
        at = np.array(x)[order][made]
        words = _plain(" · ".join(say(*item) for item in labels.items()), 40)
        axes.plot(
            at,
            value,
            color=COLOURS[k],
            marker=marker,
            markersize=size,
            fillstyle="none",
            label=words,
        )
        if name == "score":
            axes.fill_between(at, low, high, color=COLOURS[k], alpha=0.1, linewidth=0)
    if min(x) > 0 and max(x) / min(x) >= 8:
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    axes.set_xticks(x, [f"{number:g}" for number in x])
    axes.set_xlabel(_plain(axis.replace("num_inference_steps", "steps"), 40), fontsize=8)
    if name == "score":
        axes.set_ylabel(f"{grid.measure}, 95 % bands", fontsize=8)
        if grid.measure == "obedience":
            axes.set_ylim(-0.03, 1.03)
    else:
        axes.set_ylabel("seconds per picture", fontsize=8)
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_decided(axes: Axes, grid: Grid) -> None:
    """For each attribute the share of pictures that show the second words', and its half-point."""
    told: Any = grid.call["decided"]
    x = [float(label) for label in grid.axes["swap_at"]]  # type: ignore[arg-type]
    order = np.argsort(x)
    for k, name in enumerate(grid.shares[: len(COLOURS)]):
        points = [tuple(grid.estimate(name, swap_at=label)) for label in grid.axes["swap_at"]]
        value, low, high = np.array(points, np.float64)[order].T
        at, half, (marker, size) = np.array(x)[order], told["half"][name], MARKERS[k % len(MARKERS)]
        words = f"{name}: half-way at step {half:g}" if half is not None else f"{name}: no half-way"
        look: dict[str, Any] = {
            "color": COLOURS[k],
            "marker": marker,
            "markersize": size,
            "fillstyle": "none",
        }
        axes.plot(at, value, label=_plain(words, 60), **look)
        axes.fill_between(at, low, high, color=COLOURS[k], alpha=0.1, linewidth=0)
        if half is not None:
            axes.axvline(half, color=COLOURS[k], linestyle=":", linewidth=1)
    axes.set_xlabel("step at which the words change", fontsize=8)
    cosine = grid.measure == "CLIP cosine"
    axes.set_ylabel(
        "cosine with the second words\nabove the first's"
        if cosine
        else "share with the second\nwords', 95 % bands",
        fontsize=8,
    )
    if not cosine:
        axes.set_ylim(-0.03, 1.03)
    axes.legend(fontsize=8, frameon=False)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _plain(words: str, limit: int) -> str:
    return shorten(words, limit).replace("$", r"\$")  # a prompt is no formula
