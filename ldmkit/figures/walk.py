"""A walk drawn: pictures in a row as plain HTML, a slider over them, a figure, one PIL picture.

As with a trajectory the row of ``<img>`` comes first and needs neither script nor style; where
scripts run, the slider takes its large picture from that same row.
"""

from __future__ import annotations

import base64
import io
import secrets
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ldmkit.figures.fragment import asset, module
from ldmkit.figures.page import made_with, whole_page, write_text
from ldmkit.figures.plot import NOISE, PICTURE, shown_figure
from ldmkit.figures.words import shorten, text
from ldmkit.records.walk import Walk

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["walk_figure", "walk_fragment", "walk_image", "walk_mimebundle", "write_walk_page"]

THUMB = 92  # pixels: nine of a row fit a notebook cell
COLUMNS = 9
MAX_BYTES = 2_200_000  # as for the player: an output stays under 4 MB
EXACT_PIXELS = 128 * 128  # small pictures are enlarged by the browser: no loss beforehand
_LACKING = str.maketrans({"→": "to", "θ": "theta", "−": "-"})  # in Pillow's own font


class Rung(NamedTuple):
    """One way to spend bytes: longer side in pixels, WebP quality, every how many pictures."""

    side: int
    quality: int
    every: int


LADDER = (
    Rung(512, 85, 1),
    Rung(256, 80, 1),
    Rung(128, 60, 1),
    *(Rung(128, 60, 2**k) for k in range(1, 15)),
)


def walk_fragment(walk: Walk) -> tuple[str, str]:
    """HTML that shows the pictures in a row, and the script that adds the slider.

    Returns:
        The HTML up to the script, and the module's source; a page hashes the source.
    """
    root, axis = f"ldm-{secrets.token_hex(8)}", text(_axis(walk))
    markup = (
        f'<div class="ldm-record ldm-player" id="{root}" data-axis="{axis}">'
        f"<style>{asset('player.css')}{asset('walk.css')}</style>{_sheet(walk)}</div>"
    )
    return markup, f'{module("walk.mjs")}\nwake("{root}", mountWalk);\n'


def walk_mimebundle(walk: Walk) -> dict[str, Any]:
    """What a cell shows: the slider over its row, else one picture, else a line of text."""
    markup, script = walk_fragment(walk)
    file = io.BytesIO()
    walk_image(walk).save(file, "PNG", optimize=True)
    return {
        "text/html": f'{markup}<script type="module">{script}</script>',
        "image/png": base64.b64encode(file.getvalue()).decode(),
        "text/plain": repr(walk),
    }


def write_walk_page(walk: Walk, path: str | PathLike[str]) -> Path:
    """Writes the page; see ``Walk.to_html``."""
    markup, script = walk_fragment(walk)
    title = shorten(walk.title, 80) or "A walk"
    page = whole_page(markup, script, title=title, footer=made_with("Made", walk.versions))
    return write_text(path, page)


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
    rung, encoded = _fit(walk)
    cells = [_cell(walk, i, data) for i, data in encoded.items()]
    note = ""
    if rung is not LADDER[0]:
        every = f", one picture in {rung.every}" if rung.every > 1 else ""
        note = (
            '<p style="margin:4px 0 0;font-size:12px;opacity:0.7">'
            "Shrunk to keep this output small: "
            f"at most {rung.side} pixels a side{every}. The record has everything.</p>"
        )
    return (
        '<div class="ldm-sheet" style="font-family:system-ui,sans-serif;line-height:1.4;'
        'max-width:1000px">'
        f'<p style="margin:0;font-size:18px;font-weight:600" dir="auto">'
        f"{text(shorten(walk.title, 300) or 'A walk')}</p>"
        f'<p style="margin:2px 0 10px;opacity:0.7">{text(" · ".join(details(walk)))}</p>'
        f'<div class="ldm-sheet-frames">{"".join(cells)}</div>{note}</div>'
    )


def _cell(walk: Walk, i: int, data: bytes) -> str:
    place = f"{_axis(walk)} = {_number(walk.t[i])}"
    words = shorten(walk.labels[i], 160)
    words = "" if words == place else words  # a text diff's labels say where they are
    seen = shorten(walk.verdicts[i], 80) if walk.verdicts else ""
    title = text(" · ".join(filter(None, (words, seen))) or place)
    alt = text(": ".join(filter(None, (shorten(place, 40), words))))
    return (
        f'<div style="display:inline-block;vertical-align:top;width:{THUMB + 8}px;margin:0 0 8px">'
        f'<img src="data:image/webp;base64,{base64.b64encode(data).decode()}" alt="{alt}" '
        f'title="{title}" data-t="{_number(walk.t[i])}" width="{THUMB}" '
        'style="display:block;margin:0 0 4px">'
        f'<div style="font-size:11px;line-height:1.3;padding-right:8px;overflow-wrap:anywhere">'
        f"<b>{text(shorten(place, 30))}</b>"
        f"{_line(words) if _is_end(walk, i) else ''}{_line(seen)}</div></div>"
    )


def _axis(walk: Walk) -> str:
    return shorten(walk.axis, 20)


def _line(words: str) -> str:
    return f'<br><span style="opacity:0.7">{text(shorten(words, 60))}</span>' if words else ""


def _is_end(walk: Walk, i: int) -> bool:
    """The first and the last picture are named under the row; the slider names the others."""
    return i in (0, len(walk) - 1)


def _number(t: float) -> str:
    return f"{t:.3g}"


def _fit(walk: Walk) -> tuple[Rung, dict[int, bytes]]:
    """The first rung of the ladder under the limit, and its pictures by their number."""
    encoded: dict[int, bytes] = {}
    rung = LADDER[0]
    for rung in LADDER:
        chosen = _chosen(len(walk), rung.every)
        sample = [_webp(walk.images[i], rung) for i in chosen[:: max(1, len(chosen) // 4)]]
        if sum(map(len, sample)) / len(sample) * len(chosen) > 1.1 * MAX_BYTES:
            continue
        encoded = {i: _webp(walk.images[i], rung) for i in chosen}
        if sum(map(len, encoded.values())) <= MAX_BYTES:
            break
    return rung, encoded


def _chosen(count: int, every: int) -> list[int]:
    """About one picture in ``every``, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, max(2, -(-count // every)))})


def _webp(picture: Image.Image, rung: Rung) -> bytes:
    if max(picture.size) > rung.side:
        picture = picture.copy()
        picture.thumbnail((rung.side, rung.side), Image.Resampling.LANCZOS)
    exact = picture.width * picture.height <= EXACT_PIXELS and rung.every == 1
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=rung.quality, lossless=exact, method=3)
    return file.getvalue()


def walk_figure(walk: Walk, *, columns: int = COLUMNS) -> Figure:
    """The pictures in rows; below them, of embeddings, the cosine to both ends."""
    rows = -(-len(walk) // columns)
    across = min(columns, len(walk))
    plotted = _plotted(walk)
    height = 1.45 * rows + 0.75 + 1.5 * plotted
    fig = shown_figure((max(4.5, 1.2 * across), height))
    ratios = [1.45] * rows + [1.5] * plotted
    grid = fig.add_gridspec(rows + plotted, across, height_ratios=ratios)
    title = f"{shorten(walk.title, 80)}\n{shorten(' · '.join(details(walk)), 110)}"
    fig.suptitle(title.replace("$", r"\$"), fontsize=10)
    for i, image in enumerate(walk.images):
        axes = fig.add_subplot(grid[i // across, i % across])
        axes.imshow(image)
        axes.set_title(f"{_axis(walk)} = {_number(walk.t[i])}".replace("$", r"\$"), fontsize=8)
        axes.set_axis_off()
    if plotted:
        _plot_similarity(fig.add_subplot(grid[-1, :]), walk)
    return fig


def _plotted(walk: Walk) -> bool:
    return len(walk.embeddings) > 2 and all(e.norm > 0 for e in walk.embeddings)


def _plot_similarity(axes: Any, walk: Walk) -> None:
    for end, colour, name in ((0, PICTURE, "first"), (-1, NOISE, "last")):
        cosines = [e.similarity(walk.embeddings[end]) for e in walk.embeddings]
        axes.plot(walk.t, cosines, "o-", color=colour, markersize=3, label=f"cosine to the {name}")
    axes.set_xlabel(_axis(walk).replace("$", r"\$"), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)


def walk_image(walk: Walk, *, columns: int = COLUMNS) -> Image.Image:
    """The pictures as one RGB picture, for places that show no HTML (LaTeX, slides)."""
    chosen = _chosen(len(walk), -(-len(walk) // (3 * columns)))  # three rows at most
    side, gap, margin, head = THUMB, 6, 16, 40
    width, height = walk.images[0].size
    scale = side / max(width, height)
    box = (max(1, round(width * scale)), max(1, round(height * scale)))
    across, rows = min(columns, len(chosen)), -(-len(chosen) // columns)
    cell = box[1] + 20
    size = (max(360, 2 * margin + across * (box[0] + gap) - gap), 2 * margin + head + rows * cell)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    # Pillow's own font: no file of this or any machine is needed. It lacks emoji and CJK too.
    title = shorten(walk.title, 90).translate(_LACKING)
    pen.text((margin, margin), title, fill="#111", font=ImageFont.load_default(15))
    line = shorten(" · ".join(details(walk)), 110).translate(_LACKING)
    pen.text((margin, margin + 19), line, fill="#666", font=ImageFont.load_default(11))
    for k, i in enumerate(chosen):
        x, y = margin + k % columns * (box[0] + gap), margin + head + k // columns * cell
        sheet.paste(walk.images[i].resize(box, Image.Resampling.BICUBIC), (x, y))
        words = f"{_axis(walk).translate(_LACKING)} = {_number(walk.t[i])}"
        pen.text((x, y + box[1] + 2), words, fill="#444", font=ImageFont.load_default(11))
    return sheet
