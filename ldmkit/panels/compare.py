"""``ComparePanel``: a grid's pictures side by side, the number of steps on a slider.

Stock ipywidgets only. Its widget-free twin is the grid itself, which shows all rows at once.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import ipywidgets
import traitlets

from ldmkit.check import did_you_mean, short
from ldmkit.figures.grid import along as usual_along
from ldmkit.figures.grid import choice_html, overview_html, say
from ldmkit.figures.html import shorten
from ldmkit.panels.panel import Checked, Panel, replace_earlier
from ldmkit.records.grid import Grid, Label

__all__ = ["ComparePanel"]


class ComparePanel(Panel):
    """The pictures of a grid: one axis side by side, one on a slider, the others to choose from.

    ``panel.observe(handler, names="value")`` calls back as the slider moves.

    Args:
        grid: what ``compare`` or ``sweep`` gave.
        across: the axis whose labels stand side by side; by default the scheduler, the model or
            whatever else was compared.
        along: the axis of the slider; by default the number of steps.
        **labels: where to begin, by axis: ``num_inference_steps=4``, ``prompt="a red cat"``.

    Raises:
        TypeError: not a grid.
        ValueError: unknown axis or label; the nearest name is told.
    """

    value = Checked({}, help="The label on each chosen axis; a part of it may be set.")

    def __init__(
        self, grid: Grid, *, across: str | None = None, along: str | None = None, **labels: Label
    ) -> None:
        self._grid = _checked_grid(grid)
        self._along = usual_along(grid) if along is None else self._axis("along", along)
        self._across = self._usual_across() if across is None else self._axis("across", across)
        if self._across == self._along:
            raise ValueError(
                f"across and along must be two axes, got {self._along!r} twice; leave one out."
            )
        first = {name: all_[0] for name, all_ in grid.axes.items() if name != self._across}
        start = first | self._checked(labels)
        self._controls = {name: self._control(name) for name in start}
        self._pictures, self._overview = ipywidgets.HTML(), ipywidgets.HTML()
        # The slider stands right above what it changes.
        choices = [control for name, control in self._controls.items() if name != self._along]
        super().__init__([*choices, self._controls[self._along], self._pictures, self._overview])
        self.add_class("ldm-compare")
        for name, control in self._controls.items():
            control.observe(lambda change, name=name: self._chosen(name, change), names="index")
        self.value = start
        replace_earlier(self)

    @property
    def result(self) -> Grid:
        """The grid that is shown."""
        return self._grid

    def __repr__(self) -> str:
        words = ", ".join(say(name, label) for name, label in self.value.items())
        return f"ComparePanel({self._across or 'one picture'} across; {shorten(words, 200)})"

    def _usual_across(self) -> str | None:
        others = [name for name in self._grid.axes if name not in (self._along, "prompt")]
        return others[0] if others else None

    def _axis(self, keyword: str, name: object) -> str:
        if name not in self._grid.axes:
            raise ValueError(f"{keyword} {_unknown(name, tuple(self._grid.axes))}")
        return str(name)

    def _control(self, name: str) -> Any:
        options = [
            (
                f"{i + 1}: {shorten(say(name, label), 90)}"
                if name == "prompt"
                else say(name, label),
                i,
            )
            for i, label in enumerate(self._grid.axes[name])
        ]
        words = name.replace("num_inference_", "").replace("_", " ")
        if name == self._along:
            control = ipywidgets.SelectionSlider(options=options, description=words)
        else:
            control = ipywidgets.Dropdown(options=options, description=words)
        control.style.description_width = "initial"
        control.layout.width = "min(100%, 480px)"
        return control

    def _chosen(self, name: str, change: Any) -> None:
        if change["new"] is not None:
            self.value = {name: self._grid.axes[name][change["new"]]}

    @traitlets.observe("value")
    def _show(self, change: Any) -> None:
        for name, label in self.value.items():
            self._controls[name].index = self._grid.axes[name].index(label)
        self._pictures.value = choice_html(self._grid, self.value, self._across)
        self._overview.value = overview_html(self._grid, self.value, self._across, self._along)

    def _checked(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise TypeError(f"value must be a dict of axis to label, got {short(value)}.")
        known = tuple(name for name in self._grid.axes if name != self._across)
        for name in value:
            if name == self._across:
                raise ValueError(
                    f"{name} stands side by side in this panel, so that no label can be chosen; "
                    "name another axis with across=."
                )
            if name not in known:
                raise ValueError(f"value {_unknown(name, known)}")
        return {
            name: _checked_label(name, label, self._grid.axes[name])
            for name, label in value.items()
        }


def _checked_grid(grid: object) -> Grid:
    if not isinstance(grid, Grid):
        raise TypeError(
            f"ComparePanel takes a Grid first, got {short(grid)}; make one with "
            "ldmkit.compare(pipe, prompts, scheduler=...) or ldmkit.sweep(pipe, axes, prompt)."
        )
    return grid


def _checked_label(axis: str, label: Any, labels: tuple[Label, ...]) -> Label:
    found = [known for known in labels if type(known) is type(label) and known == label]
    found = found or [known for known in labels if isinstance(label, Real) and known == label]
    if not found:
        advice = did_you_mean(label, labels, f"it has {short(labels)}.")
        raise ValueError(f"{axis} has no label {short(label)}; {advice}")
    return found[0]


def _unknown(name: object, known: tuple[str, ...]) -> str:
    advice = did_you_mean(name, known, "take one of them.")
    return f"must be one of the axes {', '.join(known)}, got {short(name)}; {advice}"
