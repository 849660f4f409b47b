"""A trajectory as a matplotlib figure, for slides and for drawing on."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from ldmkit.figures.frames import shown_lanes
from ldmkit.figures.words import details, lane_words, prompt_of, shorten
from ldmkit.records import Trajectory
from ldmkit.records.pictures import is_crisp, is_picture, lane_array
from ldmkit.records.record import index_of, whole_of
from ldmkit.records.rgb import flat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["shown_figure", "trajectory_figure"]

PICTURE, NOISE = "#0c8377", "#b0478a"  # the player's two colours


def shown_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of so many inches that shows itself as the value of a cell.

    It is none of pyplot's, which would stay in its list of open figures and show a second time.
    """
    from matplotlib.figure import Figure  # heavy: nobody pays who doesn't plot

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            with warnings.catch_warnings():  # an emoji in the prompt is drawn as a box: no news
                warnings.filterwarnings("ignore", message="Glyph .* missing from")
                self.savefig(file, format="png", dpi=110)
            return file.getvalue()

    return ShownFigure(figsize=size, layout="constrained")


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
    steps = sorted({*range(0, n, every), n - 1}) if n else []
    columns, rows = max(2, len(steps)), max(1, len(lanes))
    fig = shown_figure((1.15 * columns + 3.2, 1.25 * rows + 1.9))
    grid = fig.add_gridspec(
        rows + 1, columns + 1, height_ratios=[*[1.0] * rows, 0.8], width_ratios=[*[1] * columns, 2]
    )
    fig.suptitle(_title(traj, batch), fontsize=10)
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


def _title(traj: Trajectory, batch: int) -> str:
    lines = shorten(prompt_of(traj, batch), 80), shorten(" · ".join(details(traj, batch)), 110)
    return "\n".join(lines).replace("$", r"\$")  # a prompt is no formula


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
