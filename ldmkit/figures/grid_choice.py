"""One place of a grid in large, and where it stands in the whole: what a ComparePanel shows."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from ldmkit.figures.frames import webp
from ldmkit.figures.grid import TR, mark, say, verdict
from ldmkit.figures.words import shorten, text
from ldmkit.records.grid import AVERAGED, Grid, Label

__all__ = ["choice_html", "overview_html"]

LARGE, SMALL = 144, 44  # pixels
MOST = 16  # pictures side by side

Point = Mapping[str, Label]


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
    cells = "".join(_cell(grid, {**point, **place}, across) for place in places[:MOST])
    more = len(places) - MOST
    note = f"<p>{more} more: select(...) shows them.</p>" if more > 0 else ""
    words = prompt_at(grid, {**point, **places[0]})
    return (
        f'<div style="line-height:1.4"><b dir="auto">{text(shorten(words, 300) or "no prompt")}</b>'
        f"<div>{cells}</div>{note}</div>"
    )


def prompt_at(grid: Grid, point: Point) -> str:
    """The caption of the picture at a place."""
    return grid.select(**point).prompts[0]


def _cell(grid: Grid, point: Point, across: str | None) -> str:
    part = grid.select(**point)
    image = part.images[0]
    title = "" if across is None else f"<b>{text(say(across, point[across]))}</b><br>"
    words = text(f"{title and say(str(across), point[str(across)])}: {part.prompts[0]}")
    if image is None:
        shown = f'<div style="width:{LARGE}px;height:{LARGE}px;opacity:0.6">not made</div>'
    else:
        data = base64.b64encode(webp(image, 2 * LARGE, 85)).decode()
        shown = (
            f'<img src="data:image/webp;base64,{data}" alt="{words}" title="{words}" '
            f'width="{LARGE}" style="display:block;margin:2px 0">'
        )
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
    body = "".join(_row(grid, words, where, point, along) for words, where in rows[:MOST])
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
            data = base64.b64encode(webp(image, 2 * SMALL, 75)).decode()
            alt = text(f"{words} {say(along, label)} {verdict(part, 0)}".strip())
            shown = (
                f'<img src="data:image/webp;base64,{data}" alt="{alt}" title="{alt}" '
                f'width="{SMALL}" style="display:block;margin:0">'
            )
        cells.append(f'<td style="padding:1px;border:{chosen}">{shown}</td>')
    style = "font-size:11px;text-align:right;padding-right:8px"
    head = f'<th scope="row" style="{style}">{text(words)}</th>'
    return f"{TR}{head}{''.join(cells)}</tr>"
