"""A walk to take home: GIF, page or PNG, by a link in the panel or to a path."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import ipywidgets

from ldmkit.figures.checks import short_repr
from ldmkit.figures.words import text
from ldmkit.records import Walk
from ldmkit.records.record import file_name

__all__ = ["Export", "write_walk"]

KINDS = {
    ".gif": ("GIF", "image/gif", "The pictures moving, there and back"),
    ".html": ("Page", "text/html", "One page with a slider, which needs no network"),
    ".png": ("PNG", "image/png", "All pictures as one, the parameters inside"),
}


def write_walk(walk: Walk, path: str | PathLike[str]) -> Path:
    """Writes a walk in the kind that the path's ending names.

    Args:
        walk: the record.
        path: ends in ``.gif``, ``.html``, ``.png``, ``.webp``, or ``.safetensors`` (the record
            itself, every bit kept).

    Raises:
        ValueError: another ending.
        OSError: the folder is missing or not writable.
    """
    writers: dict[str, Callable[[str | PathLike[str]], Path]] = {
        ".gif": walk.to_gif,
        ".html": walk.to_html,
        ".png": walk.to_png,
        ".webp": walk.to_webp,
        ".safetensors": walk.save,
    }
    ending = Path(path).suffix.lower()
    if ending not in writers:
        raise ValueError(
            f"A walk's file must end in {', '.join(writers)}, got {short_repr(str(path))}; "
            'write "walk.gif".'
        )
    return writers[ending](path)


class Export(ipywidgets.Box):
    """A button for each kind; a click makes the file and shows the link that saves it.

    Args:
        walk: gives the record that is shown, or ``None``.
        on_wrong: called with a sentence where a file can't be made.
    """

    def __init__(self, walk: Callable[[], Walk | None], on_wrong: Callable[[str], None]) -> None:
        self._walk, self._on_wrong = walk, on_wrong
        self.buttons = {}
        for ending, (name, _, tooltip) in KINDS.items():
            button = ipywidgets.Button(description=name, tooltip=tooltip, icon="download")
            button.on_click(lambda _, ending=ending: self._make(ending))
            self.buttons[ending] = button
        self._link = ipywidgets.HTML()
        self._link.add_class("ldm-link")
        label = ipywidgets.HTML('<span class="ldm-export-title">Export</span>')
        super().__init__([label, *self.buttons.values(), self._link])
        self.add_class("ldm-export")
        self.add_class("ldm-empty")

    def ready(self) -> None:
        """Another record is shown: the old link goes."""
        self._link.value = ""
        self.remove_class("ldm-empty")

    def _make(self, ending: str) -> None:
        walk = self._walk()
        if walk is None:
            return
        name = file_name(walk.title, ending, otherwise="walk")
        try:
            with tempfile.TemporaryDirectory() as folder:
                content = write_walk(walk, Path(folder) / name).read_bytes()
        except (OSError, ValueError) as error:
            self._on_wrong(str(error))
            return
        kind = KINDS[ending][1]
        self._link.value = (
            f'<a download="{text(name)}" href="data:{kind};base64,'
            f'{base64.b64encode(content).decode()}">Save {text(name)}</a> '
            f"<span>{_size(len(content))}</span>"
        )


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1000))} kB"
