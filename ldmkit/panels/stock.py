"""The player's stand-in from stock ipywidgets, for front ends that lack anywidget.

It is part of every ``TrajectoryPanel``. A style sheet keeps it out of sight for three seconds
and, once a player stands in the same panel, for good: the browser decides, since a kernel that
is busy with the next cell hears of nothing.
"""

from __future__ import annotations

import html
import io
from itertools import accumulate

import ipywidgets
from PIL import Image

from ldmkit.figures import Payload

__all__ = ["StockPlayer", "close_tree"]

SIDE = 240  # pixels of one lane
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
    """An Image, an IntSlider and two lines of words.

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
        shown = data["index"][position]
        file = io.BytesIO()
        row = _row(payload, position)
        row.save(file, "WEBP", quality=85)
        titles = ", ".join(lane["title"].lower() for lane in data["lanes"])
        alpha, sigma = (_number(data[name][shown]) for name in ("alphas", "sigmas"))
        words = f"Step {shown + 1} of {data['total']}: {alpha} × picture + {sigma} × noise"
        with self._image.hold_sync():
            self._image.width, self._image.value = str(row.width), file.getvalue()
        self._words.value = (
            f"<b>{html.escape(data['prompt'])}</b><br>{html.escape(words)}<br>"
            f"<small>From the left: {html.escape(titles)}.</small>"
        )


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def _row(payload: Payload, position: int) -> Image.Image:
    """The lanes' frames at one position, side by side on nothing."""
    lanes = payload.data["lanes"]
    sizes = [size for lane in lanes for size in lane["sizes"]]
    starts = [0, *accumulate(sizes)]
    count = len(payload.data["index"])
    frames = []
    for k, lane in enumerate(lanes):
        at = k * count + position
        encoded = io.BytesIO(payload.frames[starts[at] : starts[at + 1]])
        frame = Image.open(encoded).convert("RGB")
        scale = SIDE / max(frame.size)
        size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
        how = Image.Resampling.NEAREST if lane["crisp"] else Image.Resampling.BICUBIC
        frames.append(frame.resize(size, how))
    width = sum(frame.width for frame in frames) + GAP * (len(frames) - 1)
    row = Image.new("RGBA", (width, max(frame.height for frame in frames)))
    x = 0
    for frame in frames:
        row.paste(frame, (x, 0))
        x += frame.width + GAP
    return row


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
