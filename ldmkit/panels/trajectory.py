"""``TrajectoryPanel``: a record's player, live: the kernel reads the step and sets it.

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

from ldmkit.figures import Payload, trajectory_payload
from ldmkit.figures.fragment import asset
from ldmkit.figures.frames import shown_lanes
from ldmkit.panels.stock import StockPlayer, close_tree
from ldmkit.records import RecordError, Trajectory
from ldmkit.records.pictures import LANES, drawable

__all__ = ["TrajectoryPanel"]

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
    """A record with a slider whose step the kernel can read, set and observe.

    ``panel.observe(handler, names="step")`` calls back as the slider moves. Its widget-free twin
    is the record itself: ``traj`` at the end of a cell shows the same player and is kept with
    the notebook.

    Args:
        traj: the record to show.
        step: the step shown at first, 0 to n - 1 as in ``traj.steps[step]``.
        batch: which picture of the batch, from 0.
        lanes: names of ``traj.pictures``' lanes, from the left; by default noisy picture, clean
            estimate and predicted noise, as far as the record keeps them.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.
        RecordError: the record keeps no lane that can be drawn.
    """

    # Any, since traitlets' own types would answer first and can't say what to do next.
    step = traitlets.Any(0, help="The step shown, 0 to n - 1, as in traj.steps[step].")
    batch = traitlets.Any(0, help="Which picture of the batch, from 0.")
    lanes = traitlets.Any((), help="Names of the lanes, from the left; see Trajectory.pictures.")
    value = traitlets.Any({}, help="step, batch and lanes as one dict; a part of it may be set.")

    _links: tuple[traitlets.link, ...] = ()  # close is called on what was refused, too

    def __init__(
        self,
        traj: Trajectory,
        *,
        step: int = 0,
        batch: int = 0,
        lanes: Iterable[str] | None = None,
    ) -> None:
        self._traj = _checked_record(traj)
        lanes = _usual_lanes(traj) if lanes is None else lanes
        start = self._checked({"step": step, "batch": batch, "lanes": lanes})
        self._payload = self._encode(start)
        self._player = Player(
            data=self._payload.data, frames=self._payload.frames, step=start["step"]
        )
        # Both stand side by side from the start: the browser alone knows which one works.
        self._stock = StockPlayer(len(traj.timesteps))
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

    @property
    def result(self) -> Trajectory:
        """The record that is shown."""
        return self._traj

    def close(self) -> None:
        """Takes the panel out of the page and out of ipywidgets' registry; twice is harmless."""
        for link in self._links:  # a link would keep the panel alive with its parts
            link.unlink()
        self._links = ()
        close_tree(self)

    def __repr__(self) -> str:
        n = len(self._traj.timesteps)
        return f"TrajectoryPanel(step {self.step} of 0 to {n - 1}, {', '.join(self.lanes)})"

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

    def _checked(self, value: Any) -> dict[str, Any]:
        """The same settings in plain types, or one clear sentence."""
        if not isinstance(value, dict):
            raise TypeError(f"value must be a dict of {', '.join(KEYS)}, got {_short(value)}.")
        for name in value:
            if name not in KEYS:
                raise ValueError(_unknown_key(name))
        last = {"step": len(self._traj.timesteps) - 1, "batch": self._traj.batch_size - 1}
        checks: dict[str, Any] = {
            name: _checked_index(name, value[name], last[name]) for name in last if name in value
        }
        if "lanes" in value:
            checks["lanes"] = _checked_lanes(self._traj, value["lanes"])
        return checks

    def _encode(self, settings: dict[str, Any]) -> Payload:
        return trajectory_payload(self._traj, settings["batch"], lanes=settings["lanes"])

    def _redraw(self, _: Any) -> None:
        self._payload = self._encode(self.value)
        with self._player.hold_sync():  # one message, one drawing
            self._player.data, self._player.frames = self._payload.data, self._payload.frames
        self._redraw_stock(None)

    def _redraw_stock(self, _: Any) -> None:
        if not self._player.awake:  # a picture per step would slow the slider for nobody
            self._stock.show(self._payload, self.step)

    def _rest(self, _: Any) -> None:
        """The player stands: spare the stand-in's pictures, also in browsers without ``:has``."""
        self._stock.layout.display = "none"


def _checked_record(traj: object) -> Trajectory:
    if not isinstance(traj, Trajectory):
        raise TypeError(
            f"TrajectoryPanel takes a Trajectory first, got {_short(traj)}; make one with "
            "ldmkit.record(pipe, prompt) or open one with Trajectory.open(path)."
        )
    if not len(traj.timesteps):
        raise RecordError(
            "TrajectoryPanel needs a record of at least one step, got one that was stopped before "
            "its first; record again."
        )
    if not _drawable_lanes(traj):
        raise RecordError(
            "TrajectoryPanel needs a record with step pictures, got one that keeps no lane that "
            'can be drawn; record again with keep=("latents", "denoised").'
        )
    return traj


def _usual_lanes(traj: Trajectory) -> list[str]:
    return shown_lanes(traj) or _drawable_lanes(traj)


def _drawable_lanes(traj: Trajectory) -> list[str]:
    return [lane for lane in LANES if drawable(traj, lane)]


def _checked_index(name: str, value: object, last: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(
            f"{name} must be a whole number from 0 to {last}, got {_short(value)}; "
            f"give one like {name}=0."
        )
    number = operator.index(value)
    if not 0 <= number <= last:
        raise ValueError(
            f"{name} must be between 0 and {last} inclusive in this record, got {number}; "
            f"the last is {name}={last}."
        )
    return number


def _checked_lanes(traj: Trajectory, value: object) -> tuple[str, ...]:
    can = _drawable_lanes(traj)
    choice = f"this record can show {', '.join(can)}"
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"lanes must be a list of names, got {_short(value)}; {choice}.")
    lanes = tuple(value)
    wrong = [lane for lane in lanes if lane not in can]
    if wrong or not lanes or len(set(lanes)) < len(lanes):
        got = _short(wrong[0]) if wrong else _short(list(lanes))
        raise ValueError(f"lanes must be different names of drawable lanes, got {got}; {choice}.")
    return lanes


def _unknown_key(name: object) -> str:
    near = difflib.get_close_matches(str(name), KEYS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(KEYS)}."
    return f"value knows {', '.join(KEYS)}, got {_short(name)}; {hint}"


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:59]}…"
