"""An empty matplotlib figure that shows itself, and the two colours of every drawing."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NOISE", "PICTURE", "shown_figure"]

PICTURE, NOISE = "#0c8377", "#b0478a"  # the player's two colours


def shown_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of so many inches that shows itself as the value of a cell.

    It is none of pyplot's, which would stay in its list of open figures and show a second time.
    """
    from matplotlib.figure import Figure  # heavy: nobody pays who doesn't plot

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            with warnings.catch_warnings():  # an emoji in the prompt is drawn as a box: no news
                warnings.filterwarnings("ignore", message="Glyph .* missing from")
                self.savefig(file, format="png", dpi=110)
            return file.getvalue()

    return ShownFigure(figsize=size, layout="constrained")
