"""Several records side by side to keep: one player in a cell or a page, without a kernel."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from ldmkit.figures.beside import comparison_payload
from ldmkit.figures.checks import checked_lanes, checked_records, usual_lanes
from ldmkit.figures.fragment import bundled, inlined
from ldmkit.figures.page import made_with, whole_page, write_text
from ldmkit.figures.sheet import sheet_html, sheet_image
from ldmkit.records import Trajectory
from ldmkit.records.record import index_of

__all__ = ["SideBySide", "side_by_side"]


def side_by_side(
    *trajs: Trajectory, batch: int = 0, lanes: Iterable[str] | None = None
) -> SideBySide:
    """Puts records side by side under one slider; the result shows itself in a cell.

    Records of different lengths are lined up by noise, as in ``TrajectoryPanel(*trajs)``, whose
    twin without a kernel this is: it stays alive in a saved notebook and in a page.

    Args:
        *trajs: two to eight records, from the left.
        batch: which picture of each batch, from 0.
        lanes: names of ``traj.pictures``' lanes, from the top; by default noisy picture and
            clean estimate, as far as all records keep them.

    Raises:
        TypeError: not two to eight records, or ``lanes`` is no list.
        ValueError: a lane that the records can't show.
        RecordError: the records keep no lane in common, or the batch has no such picture.
    """
    if len(trajs) < 2:
        raise TypeError(
            f"side_by_side takes two records or more, got {len(trajs)}; one shows itself: end the "
            "cell with it."
        )
    records = checked_records("side_by_side", trajs)
    batch = index_of("batch", batch, min(traj.batch_size for traj in records))
    shown = usual_lanes(records) if lanes is None else lanes
    return SideBySide(records, batch, checked_lanes(records, shown))


class SideBySide:
    """Records under one slider; see ``side_by_side``."""

    def __init__(self, trajs: tuple[Trajectory, ...], batch: int, lanes: tuple[str, ...]) -> None:
        self._trajs, self._batch, self._lanes = trajs, batch, lanes

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Writes one self-contained page (no network, no kernel); returns its path.

        Raises:
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        markup, script = self._fragment()
        footer = made_with("Recorded", self._trajs[0].versions)
        title = f"{len(self._trajs)} runs side by side"
        return write_text(path, whole_page(markup, script, title=title, footer=footer))

    def _fragment(self) -> tuple[str, str]:
        payload = comparison_payload(self._trajs, self._batch, lanes=self._lanes)
        columns = max(3, 12 // len(self._trajs))
        sheets = "".join(
            sheet_html(traj, self._batch, columns=columns, lanes=self._lanes)
            for traj in self._trajs
        )
        return inlined(payload, f'<div class="ldm-sheet">{sheets}</div>')

    def _picture(self) -> Image.Image:
        """The records' contact sheets, one below the other."""
        columns = max(2, 12 // len(self._trajs))  # PNG of noise is large
        sheets = [
            sheet_image(traj, self._batch, columns=columns, lanes=self._lanes)
            for traj in self._trajs
        ]
        size = (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets))
        whole = Image.new("RGB", size, "white")
        y = 0
        for sheet in sheets:
            whole.paste(sheet, (0, y))
            y += sheet.height
        return whole

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return bundled(self._fragment(), self._picture(), repr(self))

    def __repr__(self) -> str:
        return f"SideBySide({', '.join(map(repr, self._trajs))})"
