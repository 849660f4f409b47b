"""Records drawn: a contact sheet, a matplotlib figure, a player in one self-contained page."""

from ldmkit.figures.beside import comparison_payload
from ldmkit.figures.fragment import mimebundle
from ldmkit.figures.frames import Payload, trajectory_payload
from ldmkit.figures.page import write_page
from ldmkit.figures.plot import trajectory_figure
from ldmkit.figures.sheet import sheet_html, sheet_image

__all__ = [
    "Payload",
    "comparison_payload",
    "mimebundle",
    "sheet_html",
    "sheet_image",
    "trajectory_figure",
    "trajectory_payload",
    "write_page",
]
