"""A grid drawn: rows and columns of pictures as plain HTML, as one PIL picture, as a page.

Plain ``<table>`` and ``<img>``: an untrusted notebook shows the same as a trusted one.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ldmkit.figures.frames import webp
from ldmkit.figures.page import made_with, whole_page, write_text
from ldmkit.figures.words import shorten, text
from ldmkit.records.grid import AVERAGED, Grid, Label
from ldmkit.records.rgb import flat

__all__ = [
    "TR",
    "Row",
    "along",
    "details",
    "grid_html",
    "grid_image",
    "grid_mimebundle",
    "laid_out",
    "mark",
    "say",
    "title_of",
    "verdict",
    "write_grid_page",
]

THUMB = 72  # pixels
WRAP = 8  # pictures in a row where one axis is all there is
MAX_ROWS, MAX_PICTURES = 12, 96  # of a cell's output, which stays far under 4 MB
PAGE_PICTURES = 3000
TABLE_ROWS = 60
TR = '<tr style="background:transparent">'  # JupyterLab would stripe the rows
_SHORT = {"num_inference_steps": "steps", "guidance_scale": "guidance"}


@dataclass(frozen=True)
class Row:
    """One row of pictures.

    Attributes:
        group: the caption that it and its neighbours share, or nothing.
        label: the row's own words.
        positions: where its pictures are in ``grid.images``.
    """

    group: str
    label: str
    positions: tuple[int, ...]


def along(grid: Grid) -> str:
    """The axis whose labels are the columns: the number of steps, else the last setting."""
    settings = [name for name in grid.axes if name not in AVERAGED]
    if "num_inference_steps" in settings:
        return "num_inference_steps"
    return settings[-1] if settings else list(grid.axes)[-1]


def say(axis: str, label: Label) -> str:
    """A label in words: ``"4 steps"``, ``"guidance 3"``, ``"euler"``."""
    if axis == "num_inference_steps":
        return f"{label} step{'' if label == 1 else 's'}"
    if axis in ("scheduler", "model", "prompt") and isinstance(label, str):
        return shorten(label, 200)
    number = f"{label:g}" if isinstance(label, float) else shorten(str(label), 60)
    return f"{shorten(_SHORT.get(axis, axis), 40)} {number}"


def laid_out(grid: Grid) -> tuple[list[str], list[Row]]:
    """Headings of the columns, and all rows, those of one caption together.

    A grid of one axis has no headings: its pictures are wrapped.
    """
    numbers = np.arange(len(grid)).reshape(grid.shape)
    names = list(grid.axes)
    if len(names) == 1:
        every = range(0, len(grid), WRAP)
        return [], [Row("", "", tuple(range(i, min(i + WRAP, len(grid))))) for i in every]
    column = along(grid)
    others = [name for name in names if name != column]
    # What is repeated comes first, so that what is compared stands one above the other.
    others.sort(key=lambda name: AVERAGED.index(name) if name in AVERAGED else len(AVERAGED))
    moved = numbers.transpose([names.index(name) for name in [*others, column]])
    rows = []
    for where in np.ndindex(moved.shape[:-1]):
        labels = {name: grid.axes[name][i] for name, i in zip(others, where, strict=True)}
        group = str(labels.pop("prompt")) if "prompt" in labels else ""
        words = " · ".join(say(name, label) for name, label in labels.items())
        rows.append(Row(group, words, tuple(moved[where].tolist())))
    return [say(column, label) for label in grid.axes[column]], rows


def title_of(grid: Grid) -> str:
    """The caption, or how many there are."""
    captions = dict.fromkeys(grid.prompts)
    if grid.shares:
        told: Any = grid.call["decided"]
        return f"{told['first']} → {told['second']}"
    if len(captions) == 1:
        return next(iter(captions)) or "no prompt"
    return f"{len(captions)} captions"


def details(grid: Grid) -> list[str]:
    """What all pictures share, in words."""
    call = grid.call
    seeds = {seed for seed in grid.seeds if seed is not None}
    steps, guidance = call.get("num_inference_steps"), call.get("guidance_scale")
    missing = sum(image is None for image in grid.images)
    parts = [
        shorten(grid.model, 60),
        f"{len(grid)} pictures" + (f", {missing} not made" if missing else ""),
        f"seed {seeds.pop()}" if len(seeds) == 1 else "",
        "" if steps is None else say("num_inference_steps", steps),
        "" if guidance is None else say("guidance_scale", guidance),
        shorten(str(call.get("scheduler", "")), 40).removesuffix("Scheduler"),
    ]
    return [part for part in parts if part]


def verdict(grid: Grid, position: int) -> str:
    """What was measured of one picture, in a word or a number."""
    score = float(grid.values["score"][position]) if "score" in grid.values else math.nan
    if math.isnan(score):
        return ""
    if grid.measure == "obedience":
        return "obeyed" if score else "missed"
    return f"{score:.2f}"


def grid_html(grid: Grid, *, rows: int = MAX_ROWS, pictures: int = MAX_PICTURES) -> str:
    """The grid as HTML that needs neither script nor style sheet.

    Args:
        grid: the record.
        rows: how many rows of pictures are shown at most.
        pictures: how many pictures are shown at most.
    """
    headings, all_rows = laid_out(grid)
    count = max(1, min(rows, pictures // max(1, len(all_rows[0].positions))))
    shown = all_rows[:count]
    note = ""
    if len(shown) < len(all_rows):
        note = (
            '<p style="margin:4px 0 0;font-size:12px;opacity:0.7">'
            f"The first {len(shown)} of {len(all_rows)} rows; select(...) shows others"
            f"{', to_html(path) writes more' if pictures < PAGE_PICTURES else ''}.</p>"
        )
    table = grid.table if grid.values else ()
    measured = table._repr_html_() if 0 < len(table) <= TABLE_ROWS else ""  # type: ignore[union-attr]
    return (
        '<div class="ldm-sheet" style="font-family:system-ui,sans-serif;line-height:1.4">'
        '<p style="margin:0;font-size:18px;font-weight:600" dir="auto">'
        f"{text(shorten(title_of(grid), 300))}</p>"
        f'<p style="margin:2px 0 8px;opacity:0.7">{text(" · ".join(details(grid)))}</p>'
        f'<table style="border-collapse:collapse;margin:0">{_heading(headings)}'
        f"{''.join(_html_rows(grid, shown))}</table>{note}"
        f'<div style="margin-top:10px">{measured}</div></div>'
    )


def _heading(headings: list[str]) -> str:
    if not headings:
        return ""
    # Columns have a width, so that a long caption's row stretches the empty last one alone.
    style = f"width:{THUMB + 8}px;padding:0 4px 2px;font-size:12px;text-align:left;font-weight:600"
    cells = "".join(f'<th scope="col" style="{style}">{text(words)}</th>' for words in headings)
    return f"{TR}<td></td>{cells}<td></td></tr>"


def _html_rows(grid: Grid, rows: list[Row]) -> Iterator[str]:
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            yield (
                f'{TR}<th colspan="{len(row.positions) + 2}" scope="rowgroup" dir="auto" '
                'style="padding:8px 4px 2px;font-size:13px;text-align:left;font-weight:400">'
                f"“{text(shorten(group, 200))}”</th></tr>"
            )
        cells = "".join(_cell(grid, position, row) for position in row.positions)
        yield (
            f'{TR}<th scope="row" style="padding:0 8px 0 4px;font-size:12px;text-align:right;'
            f'font-weight:600">{text(row.label)}</th>{cells}</tr>'
        )


def _cell(grid: Grid, position: int, row: Row) -> str:
    style = "padding:2px 4px;font-size:11px;text-align:left;vertical-align:top"
    image = grid.images[position]
    if image is None:
        return f'<td style="{style};opacity:0.6">not made</td>'
    point = ", ".join(say(name, label) for name, label in grid.point(position).items())
    words = text(f"{shorten(grid.prompts[position], 160) or 'no prompt'} ({shorten(point, 200)})")
    data = base64.b64encode(webp(image, 2 * THUMB, 80)).decode()
    under = mark(verdict(grid, position))
    if not row.label and len(grid.axes) == 1:
        under = text(shorten(point, 40)) + (f"<br>{under}" if under else "")
    return (
        f'<td style="{style}"><img src="data:image/webp;base64,{data}" alt="{words}" '
        f'title="{words}" width="{THUMB}" style="display:block;margin:0">{under}</td>'
    )


def mark(words: str) -> str:
    """A sign beside the word, since colours alone say nothing to many."""
    return {"obeyed": "✓ obeyed", "missed": "✗ missed"}.get(words, words)


def grid_mimebundle(grid: Grid) -> dict[str, Any]:
    """What a cell shows: the pictures in rows and columns, else one picture, else a line."""
    file = io.BytesIO()
    grid_image(grid).save(file, "PNG", optimize=True)
    return {
        "text/html": grid_html(grid),
        "image/png": base64.b64encode(file.getvalue()).decode(),
        "text/plain": repr(grid),
    }


def write_grid_page(grid: Grid, path: str | PathLike[str]) -> Path:
    """Writes the page; see ``Grid.to_html``."""
    markup = grid_html(grid, rows=PAGE_PICTURES, pictures=PAGE_PICTURES)
    title = shorten(title_of(grid), 80)
    page = whole_page(markup, "", title=title, footer=made_with("Made", grid.versions))
    return write_text(path, page)


def grid_image(grid: Grid, *, rows: int = MAX_ROWS) -> Image.Image:
    """The pictures as one RGB picture, for places that show no HTML (LaTeX, slides).

    Args:
        grid: the record.
        rows: how many rows are shown at most.
    """
    headings, all_rows = laid_out(grid)
    shown = all_rows[:rows]
    groups = len({row.group for row in shown if row.group})
    margin, gap, head, left = 16, 6, 44, 110 if headings else 0
    columns = max(len(row.positions) for row in shown)
    cell = THUMB + 18
    width = max(360, 2 * margin + left + columns * (THUMB + gap))
    height = 2 * margin + head + (18 if headings else 0) + len(shown) * cell + groups * 22
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)

    def write(at: tuple[int, int], words: str, size: int, colour: str) -> None:
        # Pillow's own font: no file of this or any machine is needed. It lacks emoji and CJK.
        pen.text(at, words, fill=colour, font=ImageFont.load_default(size))

    write((margin, margin), shorten(title_of(grid), width // 8), 15, "#111")
    write((margin, margin + 20), shorten(" · ".join(details(grid)), width // 6), 11, "#666")
    y = margin + head
    for k, words in enumerate(headings):
        write((margin + left + k * (THUMB + gap), y), shorten(words, 13), 11, "#111")
    y += 18 if headings else 0
    group = ""
    for row in shown:
        if row.group != group:
            group = row.group
            write((margin, y + 4), shorten(group, width // 6), 12, "#111")
            y += 22
        write((margin, y + THUMB // 2 - 7), shorten(row.label, 17), 11, "#111")
        for k, position in enumerate(row.positions):
            x = margin + left + k * (THUMB + gap)
            image = grid.images[position]
            if image is not None:
                sheet.paste(fitted(image, THUMB), (x, y))
            words = "not made" if image is None else verdict(grid, position)
            if not headings:
                words = " ".join([*map(str, grid.point(position).values()), words])
            write((x, y + THUMB + 1), shorten(words, 14), 10, "#555")
        y += cell
    return sheet


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """An RGB picture whose longer side has ``side`` pixels."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return flat(picture).resize(size, Image.Resampling.BICUBIC)
