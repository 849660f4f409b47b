"""A grid as a matplotlib figure: pictures above, what was measured of them below."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldmkit.figures.grid import THUMB, Row, along, details, fitted, laid_out, say, title_of
from ldmkit.figures.plot import NOISE, PICTURE, shown_figure
from ldmkit.figures.words import shorten
from ldmkit.records.grid import AVERAGED, Grid
from ldmkit.records.record import whole_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["grid_figure"]

COLOURS = (PICTURE, NOISE, "#d98200", "#3b6fb6", "#5b8c2a", "#7a5c3e", "#c23b3b", "#666666")
# Curves that coincide (DDIM and Euler do) must both be seen: large and hollow under small.
MARKERS = (("o", 9), ("s", 7), ("^", 6), ("D", 4), ("v", 4), ("P", 4), ("X", 4), (".", 4))
GAP = 6


def grid_figure(grid: Grid, *, rows: int = 8) -> Figure:
    """Rows of pictures; below them score and seconds along the columns' axis, with 95 % bands.

    Raises:
        RecordError: ``rows`` is not a whole number of at least 1.
    """
    rows = whole_of("rows", rows, 1)
    headings, all_rows = laid_out(grid)
    shown = all_rows[:rows]
    columns = max(len(row.positions) for row in shown)
    plotted = [name for name in ("score", "seconds") if _has(grid, name)] if _curved(grid) else []
    plotted = ["decided"] if grid.shares and plotted else plotted
    tall = 0.85 * len(shown) + 0.3 * len({row.group for row in shown})
    fig = shown_figure((max(6.5, 0.85 * columns + 2.2), tall + 0.9 + (2.6 if plotted else 0)))
    ratios = [tall, 2.6] if plotted else [tall]
    places = fig.add_gridspec(len(ratios), max(1, len(plotted)), height_ratios=ratios)
    more = f" ({len(shown)} of {len(all_rows)} rows shown)" if len(shown) < len(all_rows) else ""
    lines = shorten(title_of(grid), 80), shorten(" · ".join(details(grid)), 100) + more
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


def _has(grid: Grid, name: str) -> bool:
    return name in grid.values and bool(np.isfinite(grid.values[name]).any())


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
                pixels = np.asarray(fitted(image, THUMB))
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
            found.append((float(np.median(known[np.isfinite(known)])),) * 3)
    return np.array(found, dtype=np.float64)


def _draw_curves(axes: Axes, grid: Grid, name: str) -> None:
    axis = along(grid)
    x = [float(label) for label in grid.axes[axis]]  # type: ignore[arg-type]
    order = np.argsort(x)
    for k, labels in enumerate(_lines(grid)[1][: len(COLOURS)]):
        value, low, high = _points(grid, name, labels)[order].T
        marker, size = MARKERS[k % len(MARKERS)]
        at = np.array(x)[order]
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
