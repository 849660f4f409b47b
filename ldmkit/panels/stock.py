"""The player's stand-in from stock ipywidgets, for front ends that lack anywidget.

It is part of every ``TrajectoryPanel``. A style sheet keeps it out of sight for three seconds
and, once a player stands in the same panel, for good: the browser decides, since a kernel that
is busy with the next cell hears of nothing.
"""

from __future__ import annotations

import io
from itertools import accumulate
from typing import Any

import ipywidgets
from PIL import Image

from ldmkit.figures import Payload
from ldmkit.figures.words import text

__all__ = ["StockPlayer", "close_tree"]

SIDE = 240  # pixels of one lane
WIDTH = 920  # pixels of all columns of a comparison
GAP = 16
STYLE = """<style>
@keyframes ldm-late { from { max-height: 0; overflow: hidden; visibility: hidden } }
.ldm-stock { animation: ldm-late 3s step-end }
.ldm-panel:has(.ldm-player) .ldm-stock { display: none }
.ldm-panel .jupyter-widgets-error-widget { display: none }
</style>"""
REASON = (
    "The player did not start, so plain widgets stand in. Most often the front end of anywidget "
    "is missing: install anywidget where the Jupyter server runs, then reload this page."
)


class StockPlayer(ipywidgets.VBox):
    """An Image, an IntSlider and a few lines of words.

    Pictures are made in the kernel at every step, so nothing is drawn before ``show``.
    """

    def __init__(self, total: int) -> None:
        self.slider = ipywidgets.IntSlider(
            value=0, min=0, max=total - 1, description="Step", readout=False
        )
        self.slider.style.description_width = "initial"
        self.slider.layout.width = "min(100%, 480px)"
        # WebP is a quarter of PNG, and Image passes any format on to the browser.
        self._image = ipywidgets.Image(format="webp")
        self._image.layout.max_width = "100%"
        self._image.layout.height = "auto"
        self._words = ipywidgets.HTML()
        note = ipywidgets.HTML(f"{STYLE}<small>{REASON}</small>")
        super().__init__([self._words, self._image, self.slider, note])
        self.add_class("ldm-stock")

    def show(self, payload: Payload, step: int) -> None:
        """Draws the lanes at one step (from 0), or at the last one shown before it."""
        data = payload.data
        position = max(0, sum(i <= step for i in data["index"]) - 1)
        file = io.BytesIO()
        picture = _picture(payload, position)
        picture.save(file, "WEBP", quality=85)
        with self._image.hold_sync():
            self._image.width, self._image.value = str(picture.width), file.getvalue()
        lines = _lines(data, position)
        self._words.value = "<br>".join([f"<b>{text(data['prompt'])}</b>", *map(text, lines)])


def _lines(data: dict[str, Any], position: int) -> list[str]:
    """What is seen, in words."""
    shown = data["index"][position]
    mix = _mix(data, shown)
    titles = ", ".join(lane["title"].lower() for lane in data["lanes"])
    if "runs" not in data:
        return [f"Step {shown + 1} of {data['total']}: {mix}", f"From the left: {titles}."]
    runs = []
    for run in data["runs"]:
        i = run["index"][run["at"][position]]
        runs.append(f"{run['title']} (step {i + 1} of {run['total']})")
    return [
        f"Position {shown + 1} of {data['total']}: {mix}",
        f"From the left: {'; '.join(runs)}. From the top: {titles}.",
        data["align"],
    ]


def _mix(data: dict[str, Any], i: int) -> str:
    alpha, sigma = (_number(data[name][i]) for name in ("alphas", "sigmas"))
    return f"{alpha} × picture + {sigma} × noise"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def _picture(payload: Payload, position: int) -> Image.Image:
    """One record: its lanes in a row; several: a column each. On nothing."""
    data = payload.data
    if "runs" not in data:
        return _paste([_lanes(data, payload.frames, position)])
    side = min(SIDE, (WIDTH + GAP) // len(data["runs"]) - GAP)
    columns, at = [], 0
    for run in data["runs"]:
        columns.append(_lanes(run, payload.frames[at:], run["at"][position], side))
        at += sum(size for lane in run["lanes"] for size in lane["sizes"]) + run["final"]["size"]
    return _paste([list(row) for row in zip(*columns, strict=True)])


def _lanes(
    data: dict[str, Any], frames: bytes, position: int, side: int = SIDE
) -> list[Image.Image]:
    """Each lane's frame at one position, its longer side ``side`` pixels."""
    sizes = [size for lane in data["lanes"] for size in lane["sizes"]]
    starts = [0, *accumulate(sizes)]
    pictures = []
    for k, lane in enumerate(data["lanes"]):
        at = k * len(data["index"]) + position
        frame = Image.open(io.BytesIO(frames[starts[at] : starts[at + 1]])).convert("RGB")
        scale = side / max(frame.size)
        size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
        how = Image.Resampling.NEAREST if lane["crisp"] else Image.Resampling.BICUBIC
        pictures.append(frame.resize(size, how))
    return pictures


def _paste(rows: list[list[Image.Image]]) -> Image.Image:
    """Rows of pictures as one, with gaps that show the page."""
    widths = [max(row[x].width for row in rows) for x in range(len(rows[0]))]
    heights = [max(picture.height for picture in row) for row in rows]
    size = (sum(widths) + GAP * (len(widths) - 1), sum(heights) + GAP * (len(heights) - 1))
    whole = Image.new("RGBA", size)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            whole.paste(picture, (sum(widths[:x]) + GAP * x, sum(heights[:y]) + GAP * y))
    return whole


def close_tree(widget: ipywidgets.Widget) -> None:
    """Closes a widget and all that it is made of.

    ``Widget.close`` leaves children, layouts and styles in ipywidgets' registry, and with them
    whatever their handlers have captured.
    """
    for child in getattr(widget, "children", ()):
        close_tree(child)
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, ipywidgets.Widget):
            part.close()
    widget.unobserve_all()
    ipywidgets.Widget.close(widget)
