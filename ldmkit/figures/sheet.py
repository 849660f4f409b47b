"""The contact sheet: pictures in rows, as plain HTML or as one PIL picture.

The HTML is what remains where scripts and styles are stripped (a mailed notebook that is not
trusted, a mail client): ``<img>`` with data: addresses and inline styles that JupyterLab's
sanitiser lets through (no ``image-rendering``, no ``var()``, no class that matters).
``sheet_markup`` and ``contact_sheet`` know pictures and words; walks and grids use them, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ldmkit.figures.attention import attention_html
from ldmkit.figures.captions import alt_text, decoded_note, details, lane_words, prompt_of
from ldmkit.figures.html import img, shorten, text
from ldmkit.figures.webp import spread, webp
from ldmkit.records import Trajectory
from ldmkit.records.pictures import drawable, is_crisp, is_hidden, is_picture, lane_array
from ldmkit.records.rgb import fitted, flat

__all__ = [
    "PLAYER_LANES",
    "Drawn",
    "SheetRow",
    "Tile",
    "cell_markup",
    "contact_sheet",
    "drawn",
    "fitted_picture",
    "sheet_html",
    "sheet_image",
    "sheet_markup",
    "shown_lanes",
]

Drawn = Mapping[str, NDArray[np.uint8]]  # lane -> (n, H, W, 3)
PLAYER_LANES = ("latents", "denoised", "noise_pred")

THUMB = 80  # pixels: eight columns and the picture fit a notebook cell
FINALS = 8  # final pictures of a batch that are shown
MARGIN, GAP, HEAD = 16, 6, 42  # pixels of a painted sheet
GROUP, LINE = 22, 14
_LACKING = str.maketrans({"→": "to", "θ": "theta", "−": "-"})  # in Pillow's own font


# --- of any pictures: HTML -----------------------------------------------------------------------


def sheet_markup(title: str, line: str, body: str, note: str = "") -> str:
    """Pictures under their title.

    Args:
        title: plain words, escaped here.
        line: plain words under it, such as parameters.
        body: markup.
        note: plain words under the pictures, or nothing.
    """
    under = f'<p style="margin:4px 0 0;font-size:12px;opacity:0.7">{text(note)}</p>'
    return (
        '<div class="ldm-sheet" style="font-family:system-ui,sans-serif;line-height:1.4;'
        'max-width:1000px">'
        '<p style="margin:0;font-size:18px;font-weight:600;overflow-wrap:anywhere" dir="auto">'
        f"{text(title)}</p>"
        f'<p style="margin:2px 0 8px;opacity:0.7">{text(line)}</p>{body}{under if note else ""}'
        "</div>"
    )


def cell_markup(
    pictures: str, head: str, soft: Iterable[str] = (), *, width: int, room: int = 8
) -> str:
    """Pictures above each other with plain words under them: one strong line, others soft.

    Long words are broken ``room`` pixels before the next cell begins.
    """
    lines = "".join(f'<br><span style="opacity:0.7">{text(words)}</span>' for words in soft)
    return (
        f'<div style="display:inline-block;vertical-align:top;width:{width + 8}px;margin:0 0 8px">'
        f'{pictures}<div style="font-size:11px;line-height:1.3;padding-right:{room}px;'
        f'overflow-wrap:anywhere"><b>{text(head)}</b>{lines}</div></div>'
    )


# --- of any pictures: one picture ----------------------------------------------------------------


class Tile(NamedTuple):
    """A picture as large as it is to be, or nothing in its place, and words under it."""

    picture: Image.Image | None
    under: str = ""


class SheetRow(NamedTuple):
    """Tiles beside each other, words at their left (the first line strong), words above."""

    tiles: Sequence[Tile]
    label: Sequence[str] = ()
    group: str = ""


def fitted_picture(picture: Image.Image, side: int) -> Image.Image:
    """An RGB picture whose longer side has ``side`` pixels."""
    picture, size = flat(picture), fitted(picture.size, side)
    whole = size[0] > picture.width and size[0] % picture.width == 0
    how = Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC
    return picture if picture.size == size else picture.resize(size, how)


def contact_sheet(
    title: str,
    line: str,
    rows: Sequence[SheetRow],
    *,
    side: int,
    left: int = 0,
    headings: Sequence[str] = (),
    aside: Tile | None = None,
    margin: int = MARGIN,
    gap: int = GAP,
) -> Image.Image:
    """Rows of tiles on white paper.

    Args:
        title: words above all; with no words at all the paper has no head.
        line: smaller words under it.
        rows: from the top.
        side: pixels that a column is wide.
        left: pixels for the labels of rows.
        headings: words above the columns.
        aside: a tile at the right of all rows.
        margin: pixels round everything.
        gap: pixels between tiles.
    """
    paper = _Paper(
        rows, side, left, margin, gap, headed=bool(title or line), headings=bool(headings)
    )
    right = paper.right + 2 * gap * bool(rows)
    width, height = paper.right, paper.bottom
    if aside is not None and aside.picture is not None:
        width = right + aside.picture.width
        height = max(height, paper.top + aside.picture.height + LINE * bool(aside.under))
    size = (max(360 * bool(title or line), width + margin), height + margin)
    paper.begin(size)
    paper.write((margin, margin), shorten(title, size[0] // 8), 15, "#111")
    paper.write((margin, margin + 19), shorten(line, size[0] // 6), 11, "#666")
    for k, words in enumerate(headings):
        paper.write((paper.column(k), paper.top - 18), shorten(words, 13), 11, "#111")
    for row, y in zip(rows, paper.tops, strict=True):
        paper.row(row, y)
    if aside is not None:
        paper.tile(aside, right, paper.top)
    return paper.picture


class _Paper:
    """Where everything stands, and the pen."""

    def __init__(
        self,
        rows: Sequence[SheetRow],
        side: int,
        left: int,
        margin: int,
        gap: int,
        *,
        headed: bool,
        headings: bool,
    ) -> None:
        self.side, self.margin, self.gap = side, margin, gap
        self.left, self.top = margin + left * bool(rows), margin + HEAD * headed + 18 * headings
        columns = max((len(row.tiles) for row in rows), default=0)
        self.right = self.column(columns) - gap if columns else margin
        self.tops, y, group = [], self.top, ""
        for row in rows:
            y += GROUP if row.group and row.group != group else 0
            group = row.group
            self.tops.append(y)
            words = LINE * any(tile.under for tile in row.tiles)
            y += max(tile.picture.height if tile.picture else side for tile in row.tiles)
            y += gap + words
        self.bottom = y - gap if rows else y

    def begin(self, size: tuple[int, int]) -> None:
        self.picture = Image.new("RGB", size, "white")
        self.pen = ImageDraw.Draw(self.picture)
        self.group = ""

    def column(self, k: int) -> int:
        return self.left + k * (self.side + self.gap)

    def row(self, row: SheetRow, y: int) -> None:
        if row.group != self.group:
            self.group = row.group
            words = shorten(row.group, self.picture.width // 6)
            self.write((self.margin, y - GROUP + 4), words, 12, "#111")
        middle = y + self.side // 2 - 7 * len(row.label)
        for k, words in enumerate(row.label):
            self.write(
                (self.margin, middle + 15 * k), words, 10 if k else 12, "#666" if k else "#111"
            )
        for k, tile in enumerate(row.tiles):
            self.tile(tile, self.column(k), y)

    def tile(self, tile: Tile, x: int, y: int) -> None:
        high = self.side
        if tile.picture is not None:
            self.picture.paste(tile.picture, (x, y))
            high = tile.picture.height
        self.write((x, y + high + 1), tile.under, 11, "#444")

    def write(self, at: tuple[int, int], words: str, size: int, colour: str) -> None:
        # Pillow's own font: no file of this or any machine is needed. It lacks emoji and CJK.
        font = ImageFont.load_default(size)
        self.pen.text(at, words.translate(_LACKING), fill=colour, font=font)


# --- of a trajectory -----------------------------------------------------------------------------


def shown_lanes(traj: Trajectory) -> list[str]:
    """The lanes that sheet and player can show of this record."""
    if not len(traj.timesteps):  # stopped before its first step
        return []
    return [lane for lane in PLAYER_LANES if drawable(traj, lane)]


def drawn(traj: Trajectory, batch: int = 0, lanes: Sequence[str] | None = None) -> Drawn:
    """The lanes of one picture of the batch as arrays, by default those that the player shows."""
    names = shown_lanes(traj) if lanes is None else lanes
    return {lane: lane_array(traj, lane, batch) for lane in names}


def thumbnail(frame: NDArray[np.uint8], side: int, *, cells: bool) -> Image.Image:
    """A frame of about ``side`` pixels; cells of latents keep their edges."""
    picture = Image.fromarray(frame)
    if cells and max(picture.size) < side:  # a whole factor, or cells would differ in width
        factor = math.ceil(side / max(picture.size))
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    return picture.resize(fitted(picture.size, side), Image.Resampling.LANCZOS)


def sheet_html(
    traj: Trajectory,
    batch: int = 0,
    *,
    columns: int = 8,
    lanes: Sequence[str] | None = None,
    arrays: Drawn | None = None,
    encoded: Mapping[tuple[str, int], bytes] | None = None,
) -> str:
    """The contact sheet as HTML that needs neither script nor style sheet.

    Args:
        traj: the record.
        batch: which picture of the batch, from 0.
        columns: how many steps are shown.
        lanes: what is shown of a step, from the top; by default what the player shows.
        arrays: the lanes, where ``drawn`` has drawn them already.
        encoded: the player's frames by lane and step, its final picture as ``("final", 0)``: what
            is as small as the sheet's stands in it as it is, and is not encoded again.
    """
    arrays = drawn(traj, batch, lanes) if arrays is None else arrays
    steps = spread(len(traj.timesteps), columns) if arrays else []
    encoded = encoded or {}
    parts = [
        _legend(arrays, "" if is_hidden(traj, batch) else decoded_note(traj)) if steps else "",
        *(_column(traj, arrays, i, batch, encoded) for i in steps),
        _words(traj, batch),
        *_finals(traj, {batch: encoded.get(("final", 0), b"")}),
    ]
    title = shorten(prompt_of(traj, batch), 600) or "no prompt"
    return sheet_markup(title, " · ".join(details(traj, batch)), "".join(parts))


def _words(traj: Trajectory, batch: int) -> str:
    """Where each word was looked at, where that was recorded."""
    maps = traj.attention
    if maps is None or batch > len(maps.others) or is_hidden(traj, batch):
        return ""
    return attention_html(maps.of(batch))


def _legend(lanes: Drawn, note: str) -> str:
    words = [f"{lane_words(lane)[0].lower()} ({lane_words(lane)[1]})" for lane in lanes]
    return (
        '<p style="margin:0 0 8px;font-size:12px;opacity:0.8">'
        f"Each column is one step; from the top: {text('; '.join(words))}. {note}</p>"
    )


def _column(
    traj: Trajectory, lanes: Drawn, i: int, batch: int, encoded: Mapping[tuple[str, int], bytes]
) -> str:
    cells = []
    for lane, frames in lanes.items():
        crisp, alt = is_crisp(traj, lane), alt_text(traj, lane, i, batch)
        if not crisp and (lane, i) in encoded and max(frames.shape[1:3]) <= 2 * THUMB:
            data = encoded[lane, i]
        else:
            data = webp(thumbnail(frames[i], THUMB, cells=crisp), 2 * THUMB, 80)
        cells.append(img(data, alt, THUMB, gap=4))
    mix = f"{traj.alphas[i]:.2f} × picture", f"+ {traj.sigmas[i]:.2f} × noise"
    soft = f"timestep {traj.timesteps[i]:.4g}", *mix
    return cell_markup("".join(cells), f"step {i + 1}", soft, width=THUMB, room=0)


def _finals(traj: Trajectory, encoded: Mapping[int, bytes]) -> list[str]:
    shown = traj.images[:FINALS]
    side = 2 * THUMB if len(shown) == 1 else THUMB + 20
    parts = []
    for b, image in enumerate(shown):
        alt = f"Final picture: {shorten(prompt_of(traj, b), 160) or 'no prompt'}"
        data = encoded.get(b) if max(image.size) <= 2 * THUMB else None
        data = data or webp(image, 2 * THUMB, 80)
        number = f" {b + 1} of {len(traj.images)}" if len(traj.images) > 1 else ""
        parts.append(cell_markup(img(data, alt, side, gap=4), f"final picture{number}", width=side))
    return parts


def sheet_image(
    traj: Trajectory,
    batch: int = 0,
    *,
    columns: int = 6,
    lanes: Sequence[str] | None = None,
    arrays: Drawn | None = None,
) -> Image.Image:
    """The contact sheet as one RGB picture, for places that show no HTML (LaTeX, slides).

    Args:
        traj: the record.
        batch: which picture of the batch, from 0.
        columns: how many steps are shown.
        lanes: what is shown of a step, from the top; by default what the player shows.
        arrays: the lanes, where ``drawn`` has drawn them already.

    Returns:
        Rows are lanes, columns are steps; the final picture stands at the right.
    """
    arrays = drawn(traj, batch, lanes) if arrays is None else arrays
    steps = spread(len(traj.timesteps), columns) if arrays else []
    rows = []
    for k, (lane, frames) in enumerate(arrays.items() if steps else ()):
        small = [thumbnail(frames[i], THUMB, cells=is_crisp(traj, lane)) for i in steps]
        words = [f"step {i + 1}" if k == len(arrays) - 1 else "" for i in steps]
        tiles = [Tile(fitted_picture(one, THUMB), w) for one, w in zip(small, words, strict=True)]
        rows.append(SheetRow(tiles, _label(lane)))
    aside = None
    if batch < len(traj.images):
        side = len(rows) * (THUMB + GAP) - GAP if rows else 3 * THUMB
        final = fitted_picture(traj.images[batch], side)
        aside = Tile(final, "final picture" if rows else "")
    title = prompt_of(traj, batch) or "no prompt"
    line = " · ".join(details(traj, batch))
    return contact_sheet(title, line, rows, side=THUMB, left=118, aside=aside)


def _label(lane: str) -> list[str]:
    """A lane's title and what it teaches, in lines that fit the left of a row."""
    title, caption = lane_words(lane)
    hint = caption if is_picture(lane) else "not a picture"
    half = hint.rfind(" ", 0, 20) if len(hint) > 20 else -1
    return [title, hint] if half < 0 else [title, hint[:half], hint[half + 1 :]]
