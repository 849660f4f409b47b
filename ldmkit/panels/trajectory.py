"""``TrajectoryPanel``: the player of records, live: the kernel reads the step and sets it.

The player is the one custom view among the panels: anywidget over the same ``player.mjs`` that
the record's own display inlines. Without a kernel nothing of a panel is left, so what is to be
kept is the record, which shows itself.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from typing import Any

import anywidget
import ipywidgets
import traitlets

from ldmkit.figures import Payload, comparison_payload, trajectory_payload
from ldmkit.figures.beside import align
from ldmkit.figures.checks import checked_lanes, checked_records, short_repr, usual_lanes
from ldmkit.figures.fragment import asset
from ldmkit.panels.cells import replace_earlier
from ldmkit.panels.stock import StockPlayer, close_tree
from ldmkit.records import Trajectory

__all__ = ["TrajectoryPanel", "TrajectoryPart"]

KEYS = ("step", "batch", "lanes")


class Player(anywidget.AnyWidget):
    """The custom view; pictures cross as one block of bytes, never as base64."""

    _esm = asset("player.mjs")
    _css = asset("player.css")

    data = traitlets.Dict(help="Words, numbers and sizes of frames; see figures.frames.").tag(
        sync=True
    )
    frames = traitlets.Bytes(help="All frames as WebP, one after the other.").tag(sync=True)
    step = traitlets.Int(0, help="The step shown, from 0.").tag(sync=True)
    awake = traitlets.Bool(False, help="True once a view has drawn its first frame.").tag(sync=True)


class TrajectoryPanel(ipywidgets.VBox):
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

    # Any, since traitlets' own types would answer first and can't say what to do next.
    step = traitlets.Any(0, help="The step shown, 0 to n - 1, as in traj.steps[step].")
    batch = traitlets.Any(0, help="Which picture of the batch, from 0.")
    lanes = traitlets.Any((), help="Names of the lanes, from the left; see Trajectory.pictures.")
    value = traitlets.Any({}, help="step, batch and lanes as one dict; a part of it may be set.")

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
        start = self._checked({"step": step, "batch": batch, "lanes": lanes})
        self._payload = self._encode(start)
        self._player = Player(
            data=self._payload.data, frames=self._payload.frames, step=start["step"]
        )
        # Both stand side by side from the start: the browser alone knows which one works.
        self._stock = StockPlayer(self._total)
        super().__init__([self._player, self._stock], value=start, **start)
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
        close_tree(self)

    def _replaced(self) -> None:
        """Its cell was run again: IPython's ``Out`` keeps the object, so nothing heavy stays."""
        self.close()
        self._payload = Payload({}, b"")

    def __repr__(self) -> str:
        what = f"step {self.step} of 0 to {self._total - 1}, {', '.join(self.lanes)}"
        count = len(self._trajs)
        return f"TrajectoryPanel({f'{count} records, ' if count > 1 else ''}{what})"

    @traitlets.validate("step", "batch", "lanes")
    def _validate_one(self, proposal: Any) -> Any:
        name = proposal["trait"].name
        return self._checked({name: proposal["value"]})[name]

    @traitlets.validate("value")
    def _validate_value(self, proposal: Any) -> dict[str, Any]:
        # What isn't told stays as it is, so that value={"step": 3} is enough.
        now = {name: getattr(self, name) for name in KEYS}
        return now | self._checked(proposal["value"])

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

    def _checked(self, value: Any) -> dict[str, Any]:
        """The same settings in plain types, or one clear sentence."""
        if not isinstance(value, dict):
            raise TypeError(f"value must be a dict of {', '.join(KEYS)}, got {short_repr(value)}.")
        for name in value:
            if name not in KEYS:
                raise ValueError(_unknown_key(name))
        pictures = min(traj.batch_size for traj in self._trajs)
        last = {"step": self._total - 1, "batch": pictures - 1}
        checks: dict[str, Any] = {
            name: _checked_index(name, value[name], last[name]) for name in last if name in value
        }
        if "lanes" in value:
            checks["lanes"] = checked_lanes(self._trajs, value["lanes"])
        return checks

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


def _checked_index(name: str, value: object, last: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(
            f"{name} must be a whole number from 0 to {last}, got {short_repr(value)}; "
            f"give one like {name}=0."
        )
    number = operator.index(value)
    if not 0 <= number <= last:
        raise ValueError(
            f"{name} must be between 0 and {last} inclusive in this record, got {number}; "
            f"the last is {name}={last}."
        )
    return number


def _unknown_key(name: object) -> str:
    near = difflib.get_close_matches(str(name), KEYS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(KEYS)}."
    return f"value knows {', '.join(KEYS)}, got {short_repr(name)}; {hint}"
