"""Attention maps drawn: overlays for a cell, strips of layers."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ldmkit.figures.canvas import shown_figure
from ldmkit.figures.captions import layer_words
from ldmkit.figures.html import shorten, text
from ldmkit.figures.webp import webp
from ldmkit.records.attention import AttentionMaps, brightness, key_words
from ldmkit.records.record import RecordError, whole_of
from ldmkit.records.rgb import flat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attention_figure", "attention_html", "attention_mimebundle"]

THUMB = 80
WORDS = 12  # that are drawn where nobody says which


def _steps(maps: AttentionMaps, count: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, len(maps) - 1, min(count, len(maps)))})


def _picture(maps: AttentionMaps, word: Any, step: int | None, size: int) -> Image.Image:
    """An overlay where the run's estimates can be drawn, else the map alone."""
    try:
        return maps.overlay(word, step=step, size=size)
    except RecordError:
        light = brightness(maps[word])
        own = light.mean(0).round().astype(np.uint8) if step is None else light[step]
        scale = size / max(own.shape)
        sides = (max(1, round(own.shape[1] * scale)), max(1, round(own.shape[0] * scale)))
        return Image.fromarray(own).resize(sides, Image.Resampling.BICUBIC).convert("RGB")


def attention_figure(maps: AttentionMaps, *words: Any, steps: int = 6) -> Figure:
    """One word: its map in every layer at some steps; several or none: a row of overlays each."""
    columns = _steps(maps, whole_of("steps", steps, 1, 32))
    if len(words) == 1:
        return _layers_figure(maps, words[0], columns)
    keys = words or maps.shown[:WORDS]
    fig = shown_figure((1.1 * len(columns) + 1.2, 1.1 * len(keys) + 0.7))
    grid = fig.subplots(len(keys), len(columns), squeeze=False)
    fig.suptitle(_plain(maps.prompt, 80), fontsize=10)
    for row, key in zip(grid, keys, strict=True):
        for axes, step in zip(row, columns, strict=True):
            axes.imshow(np.asarray(_picture(maps, key, step, 128)))
            _bare(axes)
        row[0].set_ylabel(_plain(key_words(key), 20), fontsize=8)
    _head(grid[0], columns)
    return fig


def _layers_figure(maps: AttentionMaps, word: Any, columns: list[int]) -> Figure:
    mean = maps[word]
    each = [
        np.stack([maps.at(word, step=step, layer=k) for step in columns])
        for k in range(len(maps.layers))
    ]
    names = ["mean of all layers", *(one.name for one in maps.layers)]
    rows = [mean[columns], *each]
    fig = shown_figure((0.8 * len(columns) + 2.6, 0.72 * len(rows) + 0.9))
    grid = fig.subplots(len(rows), len(columns), squeeze=False)
    name = f"“{_plain(key_words(word), 30)}”"
    where = f"concept {name}, picture of" if maps.concepts else f"{name} in"
    title = f"{where} “{_plain(maps.prompt, 60)}”, layer by layer"
    fig.suptitle(title, fontsize=9)
    for row, name, arrays in zip(grid, names, rows, strict=True):
        high = float(np.nanmax(arrays)) if np.isfinite(arrays).any() else 1.0
        for axes, array in zip(row, arrays, strict=True):
            axes.imshow(array, vmin=0, vmax=high or 1.0, cmap="magma", interpolation="nearest")
            _bare(axes)
        label = f"{layer_words(name)}\n{arrays.shape[1]} × {arrays.shape[2]}, to {high:.2g}"
        row[0].set_ylabel(
            _plain(label, 60, lines=True), fontsize=7, rotation=0, ha="right", va="center"
        )
    _head(grid[0], columns)
    return fig


def _head(row: Any, columns: list[int]) -> None:
    for axes, step in zip(row, columns, strict=True):
        axes.set_title(f"step {step + 1}", fontsize=8)


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def _plain(words: str, limit: int, *, lines: bool = False) -> str:
    return (words if lines else shorten(words, limit)).replace("$", r"\$")  # no formula


# --- HTML --------------------------------------------------------------------------------------


def attention_html(maps: AttentionMaps) -> str:
    """One overlay for each word, over all steps, as plain pictures."""
    head, alt, over = "Where each word is looked at", "“{}” is looked at", "steps, layers and heads"
    if maps.concepts:
        head = "Which of these concepts each place is most like, whether or not the prompt has them"
        alt, over = "it is like “{}”", "steps and layers"
    cells = []
    for key in maps.shown[:WORDS]:
        data = base64.b64encode(webp(_picture(maps, key, None, 2 * THUMB), 2 * THUMB, 70)).decode()
        name = text(shorten(key_words(key), 24))
        cells.append(
            f'<div style="display:inline-block;vertical-align:top;width:{THUMB}px;'
            f'margin:0 6px 6px 0;font-size:11px;text-align:center">'
            f'<img src="data:image/webp;base64,{data}" alt="Where {alt.format(name)}" '
            f'width="{THUMB}" style="display:block"><span dir="auto">{name}</span></div>'
        )
    more = len(maps.shown) - WORDS
    note = f" {more} more: attention.figure(word) draws any." if more > 0 else ""
    return (
        f'<p style="margin:10px 0 4px;font-size:12px;opacity:0.8">{head}, mean of all '
        f"{over}, over the last clean estimate.{note}</p>"
        f"<div>{''.join(cells)}</div>"
    )


def attention_mimebundle(maps: AttentionMaps) -> dict[str, Any]:
    """A cell's output: overlays of every word, or a row of pictures, or one line."""
    pictures = [flat(_picture(maps, key, None, THUMB)) for key in maps.shown[:WORDS]]
    height = max(picture.height for picture in pictures)
    sheet = Image.new("RGB", (sum(p.width + 4 for p in pictures), height), "white")
    at = 0
    for picture in pictures:
        sheet.paste(picture, (at, 0))
        at += picture.width + 4
    file = io.BytesIO()
    sheet.save(file, "PNG")
    prompt = text(shorten(maps.prompt, 300) or "no prompt")
    head = f'<p style="margin:0;font-size:16px;font-weight:600" dir="auto">{prompt}</p>'
    style = "font-family:system-ui,sans-serif;line-height:1.4;max-width:1000px"
    return {
        "text/html": f'<div style="{style}">{head}{attention_html(maps)}</div>',
        "image/png": base64.b64encode(file.getvalue()).decode(),
        "text/plain": repr(maps),
    }
