"""``TrajectoryPanel``: the player of records, live: the kernel reads the step and sets it.

The player is the one custom view among the panels: anywidget over the same ``player.mjs`` that
the record's own display inlines. Without a kernel nothing of a panel is left, so what is to be
kept is the record, which shows itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import anywidget
import ipywidgets
import traitlets
from PIL import Image

from ldmkit.check import whole
from ldmkit.figures import Payload, comparison_payload, trajectory_payload
from ldmkit.figures.html import asset, module, text
from ldmkit.figures.side_by_side import align, checked_lanes, checked_records, usual_lanes
from ldmkit.figures.webp import webp
from ldmkit.panels.panel import Checked, Panel, replace_earlier
from ldmkit.records import Trajectory
from ldmkit.records.rgb import fitted

__all__ = ["REASON", "STYLE", "StockPlayer", "TrajectoryPanel", "TrajectoryPart"]

KEYS = ("step", "batch", "lanes")
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


class Player(anywidget.AnyWidget):
    """The custom view; pictures cross as one block of bytes, never as base64."""

    _esm = module("player.mjs")
    _css = asset("player.css")

    data = traitlets.Dict(help="Words, numbers and sizes of frames; see figures.player.").tag(
        sync=True
    )
    frames = traitlets.Bytes(help="All frames as WebP, one after the other.").tag(sync=True)
    step = traitlets.Int(0, help="The step shown, from 0.").tag(sync=True)
    awake = traitlets.Bool(False, help="True once a view has drawn its first frame.").tag(sync=True)


class TrajectoryPanel(Panel):
    """Records with a slider whose step the kernel can read, set and observe.

    ``panel.observe(handler, names="step")`` calls back when the slider rests. Its widget-free twin
    is the record itself: ``traj`` at the end of a cell shows the same player and is kept with
    the notebook; of several records, ``ldmkit.side_by_side``.

    ``TrajectoryPanel(a, b, c)`` puts records side by side under one slider. They are lined up by
    noise: the slider counts the steps of the longest record, and every other one shows its step
    of the nearest noise level (``panel.steps``). Where a record begins noisier or ends cleaner
    than the longest, the slider goes on with its steps.

    Two panels of equal length follow each other by ``traitlets.link((a, "step"), (b, "step"))``.

    Args:
        *trajs: the record to show, or up to eight to compare, from the left.
        step: the step shown at first, 0 to n - 1 as in ``traj.steps[step]``; with several
            records, the position of the slider.
        batch: which picture of the batch, from 0.
        lanes: names of ``traj.pictures``' lanes, from the left; by default noisy picture, clean
            estimate and predicted noise, as far as the record keeps them. With several
            records, from the top, and by default noisy picture and clean estimate.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.
        RecordError: the records keep no lane that can be drawn of all.
    """

    step = Checked(0, help="The step shown, 0 to n - 1, as in traj.steps[step].")
    batch = Checked(0, help="Which picture of the batch, from 0.")
    lanes = Checked((), help="Names of the lanes, from the left; see Trajectory.pictures.")
    value = Checked({}, help="step, batch and lanes as one dict; a part of it may be set.")

    _is_part = False
    _links: tuple[traitlets.link, ...] = ()  # close is called on what was refused, too

    def __init__(
        self,
        *trajs: Trajectory,
        step: int = 0,
        batch: int = 0,
        lanes: Iterable[str] | None = None,
    ) -> None:
        self._take(trajs)
        lanes = usual_lanes(trajs) if lanes is None else lanes
        self._checks = {"step": self._index, "batch": self._index, "lanes": self._lanes}
        start = self._checked({"step": step, "batch": batch, "lanes": lanes})
        self._payload = self._encode(start)
        self._player = Player(
            data=self._payload.data, frames=self._payload.frames, step=start["step"]
        )
        # Both stand side by side from the start: the browser alone knows which one works.
        self._stock = StockPlayer(self._total)
        ipywidgets.VBox.__init__(self, [self._player, self._stock], value=start, **start)
        self.add_class("ldm-panel")
        self._stock.show(self._payload, self.step)
        self._links = (
            traitlets.link((self, "step"), (self._player, "step")),
            traitlets.link((self, "step"), (self._stock.slider, "value")),
        )
        self.observe(self._redraw, names=["batch", "lanes"])
        self.observe(self._redraw_stock, names=["step"])
        self._player.observe(self._rest, names=["awake"])
        if not self._is_part:
            replace_earlier(self)

    @property
    def result(self) -> Trajectory | tuple[Trajectory, ...]:
        """The record that is shown; of a comparison, all of them."""
        return self._trajs[0] if len(self._trajs) == 1 else self._trajs

    @property
    def steps(self) -> tuple[int, ...]:
        """The step that each record shows now, from 0, as in ``traj.steps``."""
        return tuple(steps[self.step] for steps in self._aligned)

    def show(self, *trajs: Trajectory, step: int = 0, lanes: Iterable[str] | None = None) -> None:
        """Shows other records in the same place; arguments and errors as for a new panel.

        Args:
            *trajs: one record or several.
            step: the step shown at first.
            lanes: names of lanes; by default the usual ones of these records.
        """
        before = self._trajs
        self._take(trajs)
        try:
            wanted = {
                "step": step,
                "batch": 0,
                "lanes": usual_lanes(trajs) if lanes is None else lanes,
            }
            start = self._checked(wanted)
        except Exception:
            self._take(before)  # what is refused changes nothing
            raise
        self._payload = self._encode(start)
        # The slider must hold the step that was and the step that comes.
        self._stock.slider.max = max(self._stock.slider.max, start["step"])
        self.unobserve(self._redraw, names=["batch", "lanes"])
        with self._player.hold_sync():
            self.value = start
            # A link rests while another thread passes on where the reader's hand just was.
            self._player.step = self._stock.slider.value = start["step"]
            self._hand_over()
        self.observe(self._redraw, names=["batch", "lanes"])
        self._stock.slider.max = self._total - 1

    def close(self) -> None:
        """Takes the panel out of the page and out of ipywidgets' registry; twice is harmless."""
        for link in self._links:  # a link would keep the panel alive with its parts
            link.unlink()
        self._links = ()
        super().close()

    def _replaced(self) -> None:
        super()._replaced()
        self._payload = Payload({}, b"")

    def __repr__(self) -> str:
        what = f"step {self.step} of 0 to {self._total - 1}, {', '.join(self.lanes)}"
        count = len(self._trajs)
        return f"TrajectoryPanel({f'{count} records, ' if count > 1 else ''}{what})"

    def _accepted(self, name: str, value: Any) -> Any:
        if name != "value":
            return self._checked({name: value})[name]
        # What isn't told stays as it is, so that value={"step": 3} is enough.
        return {name: getattr(self, name) for name in KEYS} | self._checked(value)

    @traitlets.observe("value")
    def _spread(self, change: Any) -> None:
        with self.hold_trait_notifications():  # or the first of them would overwrite the others
            for name in KEYS:
                setattr(self, name, change["new"][name])

    @traitlets.observe("step", "batch", "lanes")
    def _gather(self, change: Any) -> None:
        self.value = {name: getattr(self, name) for name in KEYS}

    def _take(self, trajs: tuple[Trajectory, ...]) -> None:
        self._trajs = checked_records("TrajectoryPanel", trajs)
        self._aligned = align(trajs).steps
        self._total = len(self._aligned[0])

    def _index(self, name: str, value: Any) -> int:
        pictures = min(traj.batch_size for traj in self._trajs)
        return whole(name, value, 0, self._total - 1 if name == "step" else pictures - 1)

    def _lanes(self, name: str, value: Any) -> tuple[str, ...]:
        return checked_lanes(self._trajs, value)

    def _encode(self, settings: dict[str, Any]) -> Payload:
        batch, lanes = settings["batch"], settings["lanes"]
        if len(self._trajs) == 1:
            return trajectory_payload(self._trajs[0], batch, lanes=lanes)
        return comparison_payload(self._trajs, batch, lanes=lanes)

    def _redraw(self, _: Any) -> None:
        self._payload = self._encode(self.value)
        self._hand_over()

    def _hand_over(self) -> None:
        with self._player.hold_sync():  # one message, one drawing
            self._player.data, self._player.frames = self._payload.data, self._payload.frames
        self._redraw_stock(None)

    def _redraw_stock(self, _: Any) -> None:
        if not self._player.awake:  # a picture per step would slow the slider for nobody
            self._stock.show(self._payload, self.step)

    def _rest(self, _: Any) -> None:
        """The player stands: spare the stand-in's pictures, also in browsers without ``:has``."""
        self._stock.layout.display = "none"


class TrajectoryPart(TrajectoryPanel):
    """A ``TrajectoryPanel`` that another panel makes, shows and closes, whatever cell runs."""

    _is_part = True


class StockPlayer(ipywidgets.VBox):
    """The player's stand-in from stock ipywidgets, for front ends that lack anywidget.

    A style sheet keeps it out of sight for three seconds and, once a player stands in the same
    panel, for good: the browser decides, since a kernel that is busy with the next cell hears of
    nothing. Pictures are made in the kernel at every step, so nothing is drawn before ``show``.
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
        picture = _picture(payload, position)
        value = webp(picture, max(picture.size), 85, see_through=True)
        with self._image.hold_sync():
            self._image.width, self._image.value = str(picture.width), value
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
        how = Image.Resampling.NEAREST if lane["crisp"] else Image.Resampling.BICUBIC
        pictures.append(frame.resize(fitted(frame.size, side), how))
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
