"""The contact sheet: a run at a glance, as plain HTML pictures or as one PIL picture.

The HTML is what remains where scripts and styles are stripped (a mailed notebook that is not
trusted, a mail client): ``<img>`` with data: addresses and inline styles that JupyterLab's
sanitiser lets through (no ``image-rendering``, no ``var()``, no class that matters).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ldmkit.figures.attention import attention_html
from ldmkit.figures.frames import Drawn, Payload, drawn, webp
from ldmkit.figures.words import alt_text, details, lane_words, prompt_of, shorten, text
from ldmkit.records import Trajectory
from ldmkit.records.pictures import is_crisp, is_hidden, is_picture
from ldmkit.records.rgb import flat

__all__ = ["chosen_steps", "sheet_html", "sheet_image"]

THUMB = 80  # pixels: eight columns and the picture fit a notebook cell
FINALS = 8  # final pictures of a batch that are shown


def chosen_steps(n: int, columns: int) -> list[int]:
    """At most ``columns`` steps, evenly spread, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, columns))}) if n else []


def thumbnail(frame: NDArray[np.uint8], side: int, *, cells: bool) -> Image.Image:
    """A frame of about ``side`` pixels; cells of latents keep their edges."""
    picture = Image.fromarray(frame)
    if cells and max(picture.size) < side:  # a whole factor, or cells would differ in width
        factor = math.ceil(side / max(picture.size))
        return picture.resize(
            (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
        )
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def sheet_html(
    traj: Trajectory,
    batch: int = 0,
    *,
    columns: int = 8,
    lanes: Sequence[str] | None = None,
    arrays: Drawn | None = None,
    payload: Payload | None = None,
) -> str:
    """The contact sheet as HTML that needs neither script nor style sheet.

    Args:
        traj: the record.
        batch: which picture of the batch, from 0.
        columns: how many steps are shown.
        lanes: what is shown of a step, from the top; by default what the player shows.
        arrays: the lanes, where ``drawn`` has drawn them already.
        payload: of the same picture: frames that are as small as the sheet's stand in it as they
            are, and are not encoded again.
    """
    arrays = drawn(traj, batch, lanes) if arrays is None else arrays
    steps = chosen_steps(len(traj.timesteps), columns) if arrays else []
    encoded = {} if payload is None else payload.cut()
    parts = [
        f'<p style="margin:0;font-size:18px;font-weight:600" dir="auto">'
        f"{text(shorten(prompt_of(traj, batch), 600) or 'no prompt')}</p>",
        f'<p style="margin:2px 0 8px;opacity:0.7">{text(" · ".join(details(traj, batch)))}</p>',
        _legend(arrays) if steps else "",
        *(_column(traj, arrays, i, batch, encoded) for i in steps),
        _words(traj, batch),
        *_finals(traj, {batch: encoded.get(("final", 0), b"")}),
    ]
    return (
        '<div class="ldm-sheet" style="font-family:system-ui,sans-serif;line-height:1.4;'
        f'max-width:1000px">{"".join(parts)}</div>'
    )


def _words(traj: Trajectory, batch: int) -> str:
    """Where each word was looked at, where that was recorded."""
    maps = traj.attention
    if maps is None or batch > len(maps.others) or is_hidden(traj, batch):
        return ""
    return attention_html(maps.of(batch))


def _legend(lanes: Drawn) -> str:
    words = [f"{lane_words(lane)[0].lower()} ({lane_words(lane)[1]})" for lane in lanes]
    return (
        '<p style="margin:0 0 8px;font-size:12px;opacity:0.8">'
        f"Each column is one step; from the top: {text('; '.join(words))}.</p>"
    )


def _column(
    traj: Trajectory, lanes: Drawn, i: int, batch: int, encoded: dict[tuple[str, int], bytes]
) -> str:
    cells = []
    for lane, frames in lanes.items():
        crisp, alt = is_crisp(traj, lane), alt_text(traj, lane, i, batch)
        if not crisp and (lane, i) in encoded and max(frames.shape[1:3]) <= 2 * THUMB:
            cells.append(_img(encoded[lane, i], alt, THUMB))
        else:
            small = thumbnail(frames[i], THUMB, cells=crisp)
            cells.append(_img(webp(small, 2 * THUMB, 80), alt, THUMB))
    timestep = f"{traj.timesteps[i]:.4g}"
    mix = f"{traj.alphas[i]:.2f} × picture<br>+ {traj.sigmas[i]:.2f} × noise"
    return (
        f'<div style="display:inline-block;vertical-align:top;width:{THUMB + 8}px;margin:0 0 8px">'
        f'{"".join(cells)}<div style="font-size:11px;line-height:1.3"><b>step {i + 1}</b><br>'
        f'<span style="opacity:0.7">timestep {timestep}<br>{mix}</span></div></div>'
    )


def _finals(traj: Trajectory, encoded: Mapping[int, bytes]) -> list[str]:
    shown = traj.images[:FINALS]
    side = 2 * THUMB if len(shown) == 1 else THUMB + 20
    parts = []
    for b, image in enumerate(shown):
        alt = f"Final picture: {shorten(prompt_of(traj, b), 160) or 'no prompt'}"
        data = encoded.get(b) if max(image.size) <= 2 * THUMB else None
        data = data or webp(image, 2 * THUMB, 80)
        number = f" {b + 1} of {len(traj.images)}" if len(traj.images) > 1 else ""
        parts.append(
            '<div style="display:inline-block;vertical-align:top;margin:0 8px 8px 0">'
            f'{_img(data, alt, side)}<div style="font-size:11px"><b>final picture{number}</b>'
            "</div></div>"
        )
    return parts


def _img(data: bytes, alt: str, width: int) -> str:
    source = base64.b64encode(data).decode()
    return (
        f'<img src="data:image/webp;base64,{source}" alt="{text(alt)}" title="{text(alt)}" '
        f'width="{width}" style="display:block;margin:0 0 4px">'
    )


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
    steps = chosen_steps(len(traj.timesteps), columns) if arrays else []
    thumbs = [
        [thumbnail(frames[i], THUMB, cells=is_crisp(traj, lane)) for i in steps]
        for lane, frames in arrays.items()
    ]
    return _Canvas(traj, list(arrays), steps, batch).paint(thumbs)


class _Canvas:
    """Places thumbnails and words on one white picture."""

    MARGIN, GAP, HEAD, LABEL = 16, 6, 40, 118

    def __init__(self, traj: Trajectory, lanes: list[str], steps: list[int], batch: int) -> None:
        self.traj, self.lanes, self.steps, self.batch = traj, lanes, steps, batch
        has_final = batch < len(traj.images)
        rows = max(1, len(lanes))
        self.grid_right = self.MARGIN + (self.LABEL + len(steps) * (THUMB + self.GAP)) * bool(steps)
        self.final_side = (rows * (THUMB + self.GAP) - self.GAP) if steps else 3 * THUMB
        width = self.grid_right + (self.final_side + 2 * self.GAP if has_final else 0) + self.MARGIN
        height = self.MARGIN + self.HEAD + rows * (THUMB + self.GAP) + 18 + self.MARGIN
        if not steps:
            height = 2 * self.MARGIN + self.HEAD + (self.final_side if has_final else 0)
        self.picture = Image.new("RGB", (max(320, width), height), "white")
        self.pen = ImageDraw.Draw(self.picture)

    def paint(self, thumbs: list[list[Image.Image]]) -> Image.Image:
        words = shorten(prompt_of(self.traj, self.batch), 90) or "no prompt"
        self.write((self.MARGIN, self.MARGIN), words, 15, "#111")
        line = shorten(" · ".join(details(self.traj, self.batch)), 110)
        self.write((self.MARGIN, self.MARGIN + 19), line, 11, "#666")
        top = self.MARGIN + self.HEAD
        for row, (lane, pictures) in enumerate(zip(self.lanes, thumbs, strict=True)):
            self.row(lane, pictures, top + row * (THUMB + self.GAP))
        for column, i in enumerate(self.steps):
            at = self.MARGIN + self.LABEL + column * (THUMB + self.GAP)
            self.write(
                (at, top + len(self.lanes) * (THUMB + self.GAP)), f"step {i + 1}", 11, "#444"
            )
        self.final(top)
        return self.picture

    def row(self, lane: str, pictures: list[Image.Image], y: int) -> None:
        title, caption = lane_words(lane)
        self.write((self.MARGIN, y + THUMB // 2 - 15), title, 12, "#111")
        hint = caption if is_picture(lane) else "not a picture"
        half = hint.rfind(" ", 0, 20) if len(hint) > 20 else -1
        self.write((self.MARGIN, y + THUMB // 2 + 1), hint if half < 0 else hint[:half], 10, "#666")
        if half > 0:
            self.write((self.MARGIN, y + THUMB // 2 + 12), hint[half + 1 :], 10, "#666")
        for column, picture in enumerate(pictures):
            x = self.MARGIN + self.LABEL + column * (THUMB + self.GAP)
            self.picture.paste(self.fitted(picture, THUMB), (x, y))

    def final(self, y: int) -> None:
        if self.batch >= len(self.traj.images):
            return
        x = self.grid_right + 2 * self.GAP if self.steps else self.MARGIN
        image = flat(self.traj.images[self.batch])
        self.picture.paste(self.fitted(image, self.final_side), (x, y))
        if self.steps:
            self.write((x, y + self.final_side + self.GAP), "final picture", 11, "#444")

    @staticmethod
    def fitted(picture: Image.Image, side: int) -> Image.Image:
        scale = side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        whole = scale == int(scale) and scale > 1
        how = Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC
        return picture.resize(size, how)

    def write(self, at: tuple[int, int], words: str, size: int, colour: str) -> None:
        # Pillow's own font: no file of this or any machine is needed. It lacks emoji and CJK.
        self.pen.text(at, words, fill=colour, font=ImageFont.load_default(size))
