"""Running a panel's cell again closes the panel that the cell made before.

ipywidgets keeps every widget until it is closed, and IPython keeps what a cell displayed in
``Out``: without this, each run of a cell would leave a panel behind, its thumbnails, records and
handlers with it.
"""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

__all__ = ["replace_earlier"]


@dataclass
class _Made:
    """The panels that one cell made when it last ran."""

    execution: str
    panels: list[weakref.ref[Any]] = field(default_factory=list)


_made: dict[tuple[str, str], _Made] = {}
_MOST = 200  # cells remembered; an edited cell counts as another where no id is told


def replace_earlier(panel: Any) -> None:
    """Notes that the running cell made this panel; ``panel._replaced()`` closes the former ones.

    Panels that one run of a cell makes in a loop stay. Outside a notebook nothing happens.
    """
    found = _running_cell()
    if found is None:
        return
    cell, execution = found
    key = (type(panel).__name__, cell)
    made = _made.pop(key, None)
    if made is None or made.execution != execution:
        for reference in made.panels if made else ():
            if (earlier := reference()) is not None:
                earlier._replaced()
        made = _Made(execution)
    made.panels.append(weakref.ref(panel))
    _made[key] = made
    while len(_made) > _MOST:
        del _made[next(iter(_made))]


def _running_cell() -> tuple[str, str] | None:
    """(the cell, this run of it), or ``None`` outside a cell."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    parent = shell.get_parent() if hasattr(shell, "get_parent") else shell.parent_header
    header = parent.get("header", parent)
    if header.get("msg_type") != "execute_request":
        return None  # a handler: nobody ran a cell
    cell = parent.get("metadata", {}).get("cellId") or _cell_by_frame(shell.user_ns)
    return (str(cell), str(header.get("msg_id"))) if cell else None


def _cell_by_frame(names: dict[str, Any]) -> str | None:
    """The file name that IPython gives a cell, made of its text, where no id is told."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is names:
            return frame.f_code.co_filename
        frame = frame.f_back
    return None
