"""The one door from records to figures, which lie above them.

A record that is never shown loads no drawing code: what is asked of it is looked up here, and its
module is loaded when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["drawn"]

# What is drawn -> module of ldmkit.figures and function, which takes the record first.
FIGURES = {
    "trajectory": "plots.trajectory_figure",
    "trajectory's guidance": "guidance.guidance_figure",
    "trajectory's page": "player.write_run_page",
    "trajectory's cell": "player.mimebundle",
    "attention": "attention.attention_figure",
    "attention's cell": "attention.attention_mimebundle",
    "walk": "plots.walk_figure",
    "walk's page": "walk.write_walk_page",
    "walk's sheet": "walk.walk_image",
    "walk's cell": "walk.walk_mimebundle",
    "grid": "plots.grid_figure",
    "grid's page": "grid.write_grid_page",
    "grid's cell": "grid.grid_mimebundle",
    "gap": "gap.gap_figure",
    "gap's cell": "gap.gap_mimebundle",
}


def drawn(what: str, record: Any, *given: Any, **options: Any) -> Any:
    """What the figures make of a record: a figure, a picture, a cell's output or a page's path."""
    module, _, function = FIGURES[what].partition(".")
    draw = getattr(import_module(f"ldmkit.figures.{module}"), function)
    return draw(record, *given, **options)
