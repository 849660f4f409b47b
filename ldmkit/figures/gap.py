"""The gap between texts and pictures drawn: two planes and the cosines' spread."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldmkit.figures.canvas import NOISE, PICTURE, shown_figure
from ldmkit.figures.html import text
from ldmkit.records.gap import Gap
from ldmkit.records.plane import Plane, units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["gap_figure", "gap_mimebundle"]

TEXT = NOISE  # of the player's two colours, the one that is not the pictures'
MOST_LINES = 100  # pairs that are joined; more hide the points
MOST_SHOWN = 2000  # points of a group that are drawn


def gap_figure(gap: Gap) -> Figure:
    """Where points spread most, the plane that shows the gap, and how the cosines are spread."""
    fig = shown_figure((11.5, 3.9))
    most, across = gap.planes
    left, middle, right = fig.subplots(1, 3)
    _draw_plane(left, gap, most, "where all points spread most")
    _draw_plane(middle, gap, across, "the plane that shows the gap")
    _draw_arrow(middle, gap, across)
    _draw_cosines(right, gap)
    handles, names = left.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower left", ncols=3, fontsize=8, frameon=False)
    return fig


def gap_mimebundle(gap: Gap) -> dict[str, Any]:
    """What a cell shows: the figure above the table, else one picture, else the table as text."""
    file = io.BytesIO()
    gap_figure(gap).savefig(file, format="png", dpi=110)
    picture = base64.b64encode(file.getvalue()).decode()
    words = text(repr(gap))
    image = f'<img src="data:image/png;base64,{picture}" alt="{words}" style="max-width:100%">'
    return {
        "text/html": f"<div>{image}{gap.table._repr_html_()}</div>",
        "image/png": picture,
        "text/plain": f"{gap!r}\n{gap.table!r}",
    }


def _draw_plane(axes: Axes, gap: Gap, plane: Plane, title: str) -> None:
    texts, pictures = (
        plane.project(group[:MOST_SHOWN]) for group in (gap.texts, gap.pictures)
    )  # (n, 2)
    if gap.paired and len(texts) <= MOST_LINES:
        lines = np.stack([texts, pictures])  # (2, n, 2)
        drawn = axes.plot(lines[..., 0], lines[..., 1], color="0.8", linewidth=0.6, zorder=1)
        drawn[0].set_label("a text and its picture")  # one entry of the legend is enough
    for points, colour, marker, name in (
        (texts, TEXT, "o", "texts"),
        (pictures, PICTURE, "s", "pictures"),
    ):
        x, y = points.T
        axes.scatter(x, y, s=12, color=colour, marker=marker, alpha=0.75, label=name, zorder=2)
    axes.set_title(title, fontsize=9)
    names = [
        f"{words} ({share:.0%} of the spread)"
        for words, share in zip(plane.words, plane.explained, strict=True)
    ]
    axes.set_xlabel(names[0], fontsize=7)
    axes.set_ylabel(names[1], fontsize=7)
    axes.set_aspect("equal", adjustable="datalim")
    _plain(axes)


def _draw_arrow(axes: Axes, gap: Gap, plane: Plane) -> None:
    ends = [plane.project(group).mean(axis=0) for group in (gap.texts, gap.pictures)]
    axes.annotate("", xy=ends[1], xytext=ends[0], arrowprops={"arrowstyle": "->", "linewidth": 1.8})
    axes.annotate(
        f"gap {gap.distance.value:.2f}",
        xy=(ends[0] + ends[1]) / 2,
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )


def _draw_cosines(axes: Axes, gap: Gap) -> None:
    texts, pictures = units(gap.texts)[0], units(gap.pictures)[0]
    groups: list[tuple[str, NDArray[np.float64], str, str]] = [
        ("two texts", _pairs(texts), TEXT, "-"),
        ("two pictures", _pairs(pictures), PICTURE, "-"),
        ("a text and another picture", _others(gap), "0.35", "--"),
    ]
    if gap.paired:
        groups.append(("a text and its own picture", np.diagonal(gap.cosines), "0.1", "-"))
    bins = [i / 20 for i in range(-20, 21)]
    for name, cosines, colour, line in groups:
        axes.hist(
            cosines,
            bins=bins,
            density=True,
            histtype="step",
            color=colour,
            linestyle=line,
            linewidth=1.4,
            label=f"{name}: {cosines.mean():.2f}",
        )
    axes.set_xlim(-1, 1)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.5)  # room for the names
    axes.set_yticks([])
    axes.set_xlabel("cosine (beside each name: its mean)", fontsize=7)
    axes.set_title("how alike they are", fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    _plain(axes)
    axes.spines["left"].set_visible(False)


def _pairs(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = rows[:MOST_SHOWN]
    cosines: NDArray[np.float64] = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    return cosines


def _others(gap: Gap) -> NDArray[np.float64]:
    cosines = gap.cosines[:MOST_SHOWN, :MOST_SHOWN]
    rows, columns = np.indices(cosines.shape)
    others: NDArray[np.float64] = cosines[rows != columns] if gap.paired else cosines.ravel()
    return others


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
