"""A grid drawn: rows and columns of pictures as plain HTML, as one PIL picture, as a page.

Plain ``<table>`` and ``<img>``: an untrusted notebook shows the same as a trusted one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import numpy as np
from PIL import Image

from ldmkit.figures.html import (
    bundled,
    img,
    made_with,
    shorten,
    text,
    whole_page,
    write_page,
)
from ldmkit.figures.sheet import SheetRow, Tile, contact_sheet, fitted_picture, sheet_markup
from ldmkit.figures.webp import webp
from ldmkit.records.grid import AVERAGED, Grid, Label

__all__ = [
    "TR",
    "Row",
    "along",
    "choice_html",
    "details",
    "grid_html",
    "grid_image",
    "grid_mimebundle",
    "laid_out",
    "overview_html",
    "say",
    "title_of",
    "verdict",
    "write_grid_page",
]

THUMB, LABEL = 72, 150  # pixels: a picture, the words at a row's left
WRAP = 8  # pictures in a row where one axis is all there is
MAX_ROWS, MAX_PICTURES = 12, 96  # of a cell's output, which stays far under 4 MB
PAGE_PICTURES = 3000
TABLE_ROWS = 60
LARGE, SMALL = 144, 44  # pixels of a ComparePanel's pictures
SIDE_BY_SIDE = 16  # of them beside each other

Point = Mapping[str, Label]

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
        more = ", to_html(path) writes more" if pictures < PAGE_PICTURES else ""
        note = f"The first {len(shown)} of {len(all_rows)} rows; select(...) shows others{more}."
    table = grid.table if grid.values else ()
    measured = table._repr_html_() if 0 < len(table) <= TABLE_ROWS else ""  # type: ignore[union-attr]
    body = (
        f'<table style="border-collapse:collapse;margin:0">{_heading(headings)}'
        f"{''.join(_html_rows(grid, shown))}</table>"
    )
    title = shorten(title_of(grid), 300)
    sheet = sheet_markup(title, " · ".join(details(grid)), body, note)
    return f'<div>{sheet}<div style="margin-top:10px">{measured}</div></div>'


def _heading(headings: list[str]) -> str:
    if not headings:
        return ""
    # Columns are as wide as their pictures, and the empty last one takes what is left: long words
    # push none of them, and JupyterLab shrinks no picture, whose width it bounds by its column's.
    wide = f'<div style="width:{THUMB}px">'
    style = "padding:0 4px 2px;font-size:12px;text-align:left;font-weight:600;vertical-align:bottom"
    cells = "".join(
        f'<th scope="col" style="{style}">{wide}{_within(shorten(words, 90), THUMB)}</div></th>'
        for words in headings
    )
    return f'{TR}<td></td>{cells}<td style="width:100%"></td></tr>'


def _within(words: str, most: int) -> str:
    """Words in lines of so many pixels, whatever they are; few words in one."""
    room = sum(2 if east_asian_width(letter) in "WF" else 1 for letter in words) * 7
    style = "white-space:nowrap" if room <= most else f"width:{most}px;overflow-wrap:anywhere"
    return f'<div style="{style}">{text(words)}</div>'


def _html_rows(grid: Grid, rows: list[Row]) -> Iterator[str]:
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            words = f"“{text(shorten(group, 200))}”"
            # as wide as the table is, and never a reason for it to be wider
            style = "width:0;min-width:100%;overflow-wrap:anywhere"
            yield (
                f'{TR}<th colspan="{len(row.positions) + 2}" scope="rowgroup" dir="auto" '
                'style="padding:8px 4px 2px;font-size:13px;text-align:left;font-weight:400">'
                f'<div style="{style}">{words}</div></th></tr>'
            )
        cells = "".join(_cell(grid, position, row) for position in row.positions)
        yield (
            f'{TR}<th scope="row" style="padding:0 8px 0 4px;font-size:12px;text-align:right;'
            f'font-weight:600">{_within(shorten(row.label, 90), LABEL)}</th>{cells}</tr>'
        )


def _cell(grid: Grid, position: int, row: Row) -> str:
    style = "padding:2px 4px;font-size:11px;text-align:left;vertical-align:top"
    image = grid.images[position]
    if image is None:
        return f'<td style="{style};opacity:0.6">not made</td>'
    point = ", ".join(say(name, label) for name, label in grid.point(position).items())
    words = f"{shorten(grid.prompts[position], 160) or 'no prompt'} ({shorten(point, 200)})"
    under = mark(verdict(grid, position))
    if not row.label and len(grid.axes) == 1:
        under = _within(shorten(point, 40), THUMB) + under
    return f'<td style="{style}">{img(webp(image, 2 * THUMB, 80), words, THUMB)}{under}</td>'


def mark(words: str) -> str:
    """A sign beside the word, since colours alone say nothing to many."""
    return {"obeyed": "✓ obeyed", "missed": "✗ missed"}.get(words, words)


def grid_mimebundle(grid: Grid) -> dict[str, Any]:
    """What a cell shows: the pictures in rows and columns, else one picture, else a line."""
    return bundled((grid_html(grid), ""), grid_image(grid), repr(grid))


def write_grid_page(grid: Grid, path: str | PathLike[str]) -> Path:
    """Writes the page; see ``Grid.to_html``."""
    markup = grid_html(grid, rows=PAGE_PICTURES, pictures=PAGE_PICTURES)
    title = shorten(title_of(grid), 80)
    page = whole_page(markup, "", title=title, footer=made_with("Made", grid.versions))
    return write_page(path, page)


def grid_image(grid: Grid, *, rows: int = MAX_ROWS) -> Image.Image:
    """The pictures as one RGB picture, for places that show no HTML (LaTeX, slides).

    Args:
        grid: the record.
        rows: how many rows are shown at most.
    """
    headings, all_rows = laid_out(grid)
    shown = [
        SheetRow(
            [_tile(grid, position, named=not headings) for position in row.positions],
            [shorten(row.label, 17)],
            row.group,
        )
        for row in all_rows[:rows]
    ]
    line, left = " · ".join(details(grid)), 110 if headings else 0
    return contact_sheet(title_of(grid), line, shown, side=THUMB, left=left, headings=headings)


def _tile(grid: Grid, position: int, *, named: bool) -> Tile:
    image = grid.images[position]
    words = "not made" if image is None else verdict(grid, position)
    if named:
        words = " ".join([*map(str, grid.point(position).values()), words])
    return Tile(None if image is None else fitted_picture(image, THUMB), shorten(words, 13))


# --- one place of a grid: what a ComparePanel shows ----------------------------------------------


def choice_html(grid: Grid, point: Point, across: str | None) -> str:
    """The pictures at one place side by side, with what was measured of each and of all like it.

    Args:
        grid: the record.
        point: a label for every axis but ``across``.
        across: the axis whose labels stand side by side; ``None`` shows one picture.
    """
    places: list[dict[str, Label]] = [{}]
    if across is not None:
        places = [{across: label} for label in grid.axes[across]]
    cells = "".join(_choice(grid, {**point, **place}, across) for place in places[:SIDE_BY_SIDE])
    more = len(places) - SIDE_BY_SIDE
    note = f"<p>{more} more: select(...) shows them.</p>" if more > 0 else ""
    words = prompt_at(grid, {**point, **places[0]})
    return (
        '<div style="line-height:1.4;overflow-wrap:anywhere">'
        f'<b dir="auto">{text(shorten(words, 300) or "no prompt")}</b>'
        f"<div>{cells}</div>{note}</div>"
    )


def prompt_at(grid: Grid, point: Point) -> str:
    """The caption of the picture at a place."""
    return grid.select(**point).prompts[0]


def _choice(grid: Grid, point: Point, across: str | None) -> str:
    part = grid.select(**point)
    image = part.images[0]
    title = "" if across is None else f"<b>{text(say(across, point[across]))}</b><br>"
    words = f"{title and say(str(across), point[str(across)])}: {part.prompts[0]}"
    if image is None:
        shown = f'<div style="width:{LARGE}px;height:{LARGE}px;opacity:0.6">not made</div>'
    else:
        shown = img(webp(image, 2 * LARGE, 85), words, LARGE, gap=2)
    lines = "<br>".join(text(line) for line in [mark(verdict(part, 0)), *_like_it(grid, point)])
    return (
        f'<div style="display:inline-block;vertical-align:top;width:{LARGE + 34}px;'
        f'font-size:12px;margin:4px 0">{title}{shown}{lines}</div>'
    )


def _like_it(grid: Grid, point: Point) -> list[str]:
    """What was measured of all captions and seeds with these settings, in lines."""
    settings = {name: label for name, label in point.items() if name not in AVERAGED}
    lines = []
    (row,) = grid.select(**settings).rows(by=()) if settings else grid.rows(by=())
    if "low" in row and row.get(grid.measure) is not None:
        lines.append(f"{grid.measure} {row[grid.measure]:.2f}, n = {row['pictures']}")
        lines.append(f"(95 %: {row['low']:.2f} to {row['high']:.2f})")
    if row.get("seconds") is not None:
        many = row.get("calls")
        calls = "" if many is None else f", {many:.0f} call{'' if many == 1 else 's'}"
        lines.append(f"{row['seconds']:.2f} s a picture{calls}")
    if row.get("first_timestep") is not None and row.get("first_alpha") is not None:
        lines.append(f"from t = {row['first_timestep']:.0f}, alpha {row['first_alpha']:.3f}")
    return lines


def overview_html(grid: Grid, point: Point, across: str | None, along: str) -> str:
    """All pictures across and along for one caption and seed, the chosen column marked."""
    heads = "".join(
        f'<th scope="col" style="padding:0 2px;font-size:11px;font-weight:'
        f'{600 if label == point[along] else 400}">{text(shorten(str(label), 12))}</th>'
        for label in grid.axes[along]
    )
    others = {name: label for name, label in point.items() if name != along}
    rows: list[tuple[str, dict[str, Any]]] = [("", others)]
    if across is not None:
        rows = [(say(across, label), {**others, across: label}) for label in grid.axes[across]]
    body = "".join(_row(grid, words, where, point, along) for words, where in rows[:SIDE_BY_SIDE])
    name = text(shorten(along.replace("_", " "), 40))
    return (
        '<table style="border-collapse:separate;border-spacing:0;margin:4px 0;line-height:1.2">'
        f'{TR}<th style="font-size:11px;font-weight:400;padding-right:8px">{name}</th>{heads}</tr>'
        f"{body}</table>"
    )


def _row(grid: Grid, words: str, where: Point, point: Point, along: str) -> str:
    cells = []
    for label in grid.axes[along]:
        part = grid.select(**where, **{along: label})
        chosen = "2px solid #0c8377" if label == point[along] else "2px solid transparent"
        shown = ""
        if (image := part.images[0]) is not None:
            alt = f"{words} {say(along, label)} {verdict(part, 0)}".strip()
            shown = img(webp(image, 2 * SMALL, 75), alt, SMALL)
        cells.append(f'<td style="padding:1px;border:{chosen}">{shown}</td>')
    style = "font-size:11px;text-align:right;padding-right:8px"
    head = f'<th scope="row" style="{style}">{_within(words, LABEL)}</th>'
    return f"{TR}{head}{''.join(cells)}</tr>"
