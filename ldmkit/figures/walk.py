"""A walk drawn: pictures in a row as plain HTML, a slider over them, one PIL picture.

As with a trajectory the row of ``<img>`` comes first and needs neither script nor style; where
scripts run, the slider takes its large picture from that same row.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from ldmkit.figures.html import (
    asset,
    bundled,
    img,
    made_with,
    module,
    new_id,
    shorten,
    text,
    whole_page,
    write_page,
)
from ldmkit.figures.sheet import (
    SheetRow,
    Tile,
    cell_markup,
    contact_sheet,
    fitted_picture,
    sheet_markup,
)
from ldmkit.figures.webp import MAX_BYTES, SMALL, fit, spread
from ldmkit.records.walk import Walk

__all__ = ["axis_of", "details", "place_of", "walk_image", "walk_mimebundle", "write_walk_page"]

THUMB = 92  # pixels: nine of a row fit a notebook cell
COLUMNS = 9
SIDE = 512  # pixels


def walk_fragment(walk: Walk) -> tuple[str, str]:
    """HTML that shows the pictures in a row, and the script that adds the slider.

    Returns:
        The HTML up to the script, and the module's source; a page hashes the source.
    """
    root, axis = new_id(), text(axis_of(walk))
    markup = (
        f'<div class="ldm-record ldm-player" id="{root}" data-axis="{axis}">'
        f"<style>{asset('player.css')}{asset('walk.css')}</style>{_sheet(walk)}</div>"
    )
    return markup, f'{module("walk.mjs")}\nwake("{root}", mountWalk);\n'


def walk_mimebundle(walk: Walk) -> dict[str, Any]:
    """What a cell shows: the slider over its row, else one picture, else a line of text."""
    return bundled(walk_fragment(walk), walk_image(walk), repr(walk))


def write_walk_page(walk: Walk, path: str | PathLike[str]) -> Path:
    """Writes the page; see ``Walk.to_html``."""
    markup, script = walk_fragment(walk)
    title = shorten(walk.title, 80) or "A walk"
    page = whole_page(markup, script, title=title, footer=made_with("Made", walk.versions))
    return write_page(path, page)


def details(walk: Walk) -> list[str]:
    """Where and how the walk goes, in words."""
    how = " ".join(filter(None, (walk.method, f"in {walk.space} space" if walk.space else "")))
    steps = walk.call.get("num_inference_steps")
    guidance = walk.call.get("guidance_scale")
    parts = [
        shorten(walk.model, 60),
        shorten(how, 60),
        f"{len(walk)} pictures",
        "" if walk.seed is None else f"seed {walk.seed}",
        "" if steps is None else f"{shorten(str(steps), 20)} steps",
        "" if guidance is None else f"guidance {shorten(str(guidance), 20)}",
    ]
    return [part for part in parts if part]


def _sheet(walk: Walk) -> str:
    fitted = fit({"walk": walk.images}, MAX_BYTES, side=SIDE, exact=SMALL)
    cells = [_cell(walk, i, data) for i, data in fitted.pictures["walk"].items()]
    note, every = "", fitted.rung.every
    if fitted.shrunk:
        note = (
            "Shrunk to keep this output small: "
            f"at most {fitted.rung.side} pixels a side{f', one picture in {every}' * (every > 1)}. "
            "The record has everything."
        )
    body = f'<div class="ldm-sheet-frames">{"".join(cells)}</div>'
    title = shorten(walk.title, 300) or "A walk"
    return sheet_markup(title, " · ".join(details(walk)), body, note)


def _cell(walk: Walk, i: int, data: bytes) -> str:
    place = place_of(walk, i)
    words = shorten(walk.labels[i], 160)
    words = "" if words == place else words  # a text diff's labels say where they are
    seen = shorten(walk.verdicts[i], 80) if walk.verdicts else ""
    title = " · ".join(filter(None, (words, seen))) or place
    alt = ": ".join(filter(None, (shorten(place, 40), words)))
    ends = i in (0, len(walk) - 1)  # named under the row; the slider names the others
    soft = [shorten(line, 60) for line in (words if ends else "", seen) if line]
    more = f'data-t="{_number(walk.t[i])}" '
    picture = img(data, alt, THUMB, title=title, gap=4, more=more)
    return cell_markup(picture, shorten(place, 30), soft, width=THUMB)


def axis_of(walk: Walk) -> str:
    """What the places are called."""
    return shorten(walk.axis, 20)


def place_of(walk: Walk, i: int) -> str:
    """Where a picture stands: ``"t = 0.5"``."""
    return f"{axis_of(walk)} = {_number(walk.t[i])}"


def _number(t: float) -> str:
    return f"{t:.3g}"


def walk_image(walk: Walk, *, columns: int = COLUMNS) -> Image.Image:
    """The pictures as one RGB picture, for places that show no HTML (LaTeX, slides)."""
    chosen = spread(len(walk), 3 * columns)  # three rows at most
    tiles = [Tile(fitted_picture(walk.images[i], THUMB), place_of(walk, i)) for i in chosen]
    rows = [SheetRow(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return contact_sheet(walk.title, " · ".join(details(walk)), rows, side=THUMB)
