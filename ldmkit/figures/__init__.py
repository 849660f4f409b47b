"""Records drawn: a contact sheet, a matplotlib figure, a player in one self-contained page."""

from ldmkit.figures.player import Payload, mimebundle, trajectory_payload, write_run_page
from ldmkit.figures.plots import trajectory_figure
from ldmkit.figures.sheet import sheet_html, sheet_image
from ldmkit.figures.side_by_side import comparison_payload

__all__ = [
    "Payload",
    "comparison_payload",
    "mimebundle",
    "sheet_html",
    "sheet_image",
    "trajectory_figure",
    "trajectory_payload",
    "write_run_page",
]
