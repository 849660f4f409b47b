"""The last runs as thumbnails: one is shown, or any two side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ipywidgets
from PIL import Image

from ldmkit.figures.captions import details, prompt_of
from ldmkit.figures.html import shorten
from ldmkit.figures.webp import webp
from ldmkit.panels.settings import Ran
from ldmkit.records import Trajectory

__all__ = ["History", "Run"]

KEPT = 8  # runs; their records stay in memory
SIDE = 96  # pixels of a thumbnail


@dataclass(frozen=True, eq=False)
class Run:
    """One run that was made: its record, and what it was made with."""

    number: int
    traj: Trajectory
    settings: Mapping[str, Any]
    ran: Ran


class History(ipywidgets.VBox):
    """A row of thumbnails; ``shown`` are the runs that were chosen, one or two.

    Args:
        on_choice: called when the choice has changed.
    """

    def __init__(self, on_choice: Callable[[], None]) -> None:
        self.runs: list[Run] = []
        self.shown: list[Run] = []
        self._on_choice = on_choice
        self._filling = False
        self._pair = ipywidgets.ToggleButton(
            description="Side by side", tooltip="Compare two runs under one slider"
        )
        self._pair.add_class("ldm-pair")
        self._slots = [_Slot() for _ in range(KEPT)]
        row = ipywidgets.HBox([slot.box for slot in self._slots])
        row.add_class("ldm-thumbs")
        super().__init__([row, self._pair])
        self.add_class("ldm-history")
        self.add_class("ldm-empty")
        for slot in self._slots:
            slot.button.observe(self._chosen, names=["value"])
        self._pair.observe(self._paired, names=["value"])

    def add(self, run: Run) -> None:
        """Takes a run in at the left; with two side by side it takes the place of the second."""
        self.runs = [run, *self.runs][:KEPT]
        pinned = [old for old in self.shown[:1] if old in self.runs]
        self.shown = [*pinned, run] if self._pair.value and pinned else [run]
        self.remove_class("ldm-empty")
        self._draw()

    def clear(self) -> None:
        """Forgets every run."""
        self.runs, self.shown = [], []

    def _draw(self) -> None:
        self._filling = True  # what is set here was not chosen by a reader
        try:
            for slot, run in zip(self._slots, self.runs, strict=False):
                slot.show(run, run in self.shown)
            self._pair.disabled = len(self.runs) < 2
        finally:
            self._filling = False

    def _chosen(self, change: Any) -> None:
        if self._filling:
            return
        run = self.runs[[slot.button for slot in self._slots].index(change["owner"])]
        others = [other for other in self.shown if other is not run]
        if change["new"]:
            self.shown = [*others[-1:], run] if self._pair.value else [run]
        elif others:
            self.shown = others
        self._draw()
        self._on_choice()

    def _paired(self, change: Any) -> None:
        if self._filling:
            return
        last = self.shown[-1]
        if change["new"]:
            others = [run for run in self.runs if run is not last]
            self.shown = [others[0], last]
        else:
            self.shown = [last]
        self._draw()
        self._on_choice()


class _Slot:
    """A picture with a button over all of it."""

    def __init__(self) -> None:
        self._picture = ipywidgets.Image(format="webp")
        self.button = ipywidgets.ToggleButton()
        self.box = ipywidgets.Box([self._picture, self.button])
        self.box.add_class("ldm-thumb")
        self.box.add_class("ldm-empty")
        self._run: Run | None = None

    def show(self, run: Run, chosen: bool) -> None:
        if run is not self._run:
            self._run = run
            self._picture.value = _thumbnail(run.traj)
            words = ", ".join([shorten(prompt_of(run.traj), 120) or "no words", *details(run.traj)])
            self.button.description = str(run.number)
            self.button.tooltip = f"Run {run.number}: {words}"
        self.button.value = chosen
        self.box.remove_class("ldm-empty")


def _thumbnail(traj: Trajectory) -> bytes:
    picture = traj.images[0] if traj.images else Image.new("RGB", (SIDE, SIDE), "gray")
    return webp(picture, SIDE, 80)
