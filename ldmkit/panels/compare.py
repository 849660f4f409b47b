"""``ComparePanel``: a grid's pictures side by side, the number of steps on a slider.

Stock ipywidgets only. Its widget-free twin is the grid itself, which shows all rows at once.
"""

from __future__ import annotations

import difflib
from typing import Any

import ipywidgets
import traitlets

from ldmkit.figures.grid import along as usual_along
from ldmkit.figures.grid import say
from ldmkit.figures.grid_choice import choice_html, overview_html
from ldmkit.figures.words import shorten
from ldmkit.panels.cells import replace_earlier
from ldmkit.panels.stock import close_tree
from ldmkit.records.grid import Grid, Label

__all__ = ["ComparePanel"]


class ComparePanel(ipywidgets.VBox):
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

    # Any, since traitlets' own types would answer first and can't say what to do next.
    value = traitlets.Any({}, help="The label on each chosen axis; a part of it may be set.")

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

    def close(self) -> None:
        """Takes the panel out of the page and out of ipywidgets' registry; twice is harmless."""
        close_tree(self)

    def _replaced(self) -> None:
        """Its cell was run again: IPython's ``Out`` keeps the object, so no widget stays."""
        self.close()

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

    @traitlets.validate("value")
    def _validate(self, proposal: Any) -> dict[str, Label]:
        if not isinstance(proposal["value"], dict):
            raise TypeError(
                f"value must be a dict of axis to label, got {_short(proposal['value'])}."
            )
        # What isn't told stays as it is, so that value={"num_inference_steps": 4} is enough.
        return {**self.value, **self._checked(proposal["value"])}

    @traitlets.observe("value")
    def _show(self, change: Any) -> None:
        for name, label in self.value.items():
            self._controls[name].index = self._grid.axes[name].index(label)
        self._pictures.value = choice_html(self._grid, self.value, self._across)
        self._overview.value = overview_html(self._grid, self.value, self._across, self._along)

    def _checked(self, labels: dict[str, Any]) -> dict[str, Label]:
        known = tuple(name for name in self._grid.axes if name != self._across)
        checked = {}
        for name, label in labels.items():
            if name == self._across:
                raise ValueError(
                    f"{name} stands side by side in this panel, so that no label can be chosen; "
                    "name another axis with across=."
                )
            if name not in known:
                raise ValueError(f"value {_unknown(name, known)}")
            checked[name] = _checked_label(name, label, self._grid.axes[name])
        return checked


def _checked_grid(grid: object) -> Grid:
    if not isinstance(grid, Grid):
        raise TypeError(
            f"ComparePanel takes a Grid first, got {_short(grid)}; make one with "
            "ldmkit.compare(pipe, prompts, scheduler=...) or ldmkit.sweep(pipe, axes, prompt)."
        )
    return grid


def _checked_label(axis: str, label: Any, labels: tuple[Label, ...]) -> Label:
    if label not in labels:
        near = difflib.get_close_matches(str(label), list(map(str, labels)), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {_short(labels)}."
        raise ValueError(f"{axis} has no label {_short(label)}; {hint}")
    return labels[labels.index(label)]


def _unknown(name: object, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "take one of them."
    return f"must be one of the axes {', '.join(known)}, got {_short(name)}; {hint}"


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:59]}…"
