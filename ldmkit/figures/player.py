"""A run's player: its frames as one JSON-able dict and one block of WebP; in a cell or a page.

The inlined page carries the bytes as base64, a panel sends them as they are: one code path in
``player.mjs`` serves both. The block is kept under ``MAX_BYTES`` by shrinking quality first,
then size, then the number of steps, and ``note`` says so.

In a cell the order matters. ``text/html`` holds plain pictures, so that an untrusted notebook shows
the sheet; the module then finds its root by a random id (``currentScript`` is null in a module and
fixed ids collide between outputs), draws the first frame and only then hides the sheet.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmkit.figures.captions import (
    alt_text,
    decoded_note,
    details,
    lane_words,
    layer_words,
    prompt_of,
)
from ldmkit.figures.html import (
    asset,
    bundled,
    json_script,
    made_with,
    module,
    new_id,
    shorten,
    whole_page,
    write_page,
)
from ldmkit.figures.sheet import PLAYER_LANES, Drawn, drawn, sheet_html, sheet_image
from ldmkit.figures.webp import MAX_BYTES, Fitted, fit, webp
from ldmkit.records import AttentionMaps, Trajectory
from ldmkit.records.attention import brightness, key_words
from ldmkit.records.pictures import LANES, drawable, is_crisp, is_hidden, is_picture
from ldmkit.records.record import index_of

__all__ = [
    "Payload",
    "attention_data",
    "inlined",
    "json_numbers",
    "mimebundle",
    "page_html",
    "trajectory_payload",
    "write_run_page",
]

SIDE = 256  # pixels of a frame
MAX_MAPS = 450_000  # bytes of attention maps beside the pictures


@dataclass(frozen=True)
class Payload:
    """What the player needs.

    Attributes:
        data: words, numbers and the byte length of every frame, JSON-able.
        frames: all frames one after the other, in the order of ``data["lanes"]``, then the
            final picture, then the attention maps, one byte a place (``attention_data``).
    """

    data: dict[str, Any]
    frames: bytes

    def cut(self) -> dict[tuple[str, int], bytes]:
        """The frames by lane and step, counted from 0; the final picture as ``("final", 0)``."""
        parts, at = {}, 0
        sizes = [(lane["name"], lane["sizes"]) for lane in self.data["lanes"]]
        for name, own in (*sizes, ("final", [self.data["final"]["size"]])):
            for step, size in zip(self.data["index"] if name != "final" else [0], own, strict=True):
                parts[name, step] = self.frames[at : at + size]
                at += size
        return parts


def trajectory_payload(
    traj: Trajectory,
    batch: int = 0,
    *,
    lanes: Sequence[str] | None = None,
    max_bytes: int = MAX_BYTES,
    arrays: Drawn | None = None,
    words: bool = True,
) -> Payload:
    """Encodes the lanes of one picture of the batch, each frame once.

    Args:
        traj: the record.
        batch: which picture of the batch, from 0.
        lanes: what to show, from the left; by default the three lanes of ``shown_lanes``.
        max_bytes: upper limit of ``frames``.
        arrays: the lanes, where ``drawn`` has drawn them already.
        words: whether attention maps come along.
    """
    arrays = drawn(traj, batch, lanes) if arrays is None else arrays
    fitted = fit(arrays, max_bytes, side=SIDE)
    final = b""
    if batch < len(traj.images):
        final = webp(traj.images[batch], fitted.rung.side if fitted.shrunk else 512, 85)
    index = fitted.rung.chosen(len(traj.timesteps))
    shown = [
        _lane(traj, lane, [*frames.values()], arrays[lane], batch)
        for lane, frames in fitted.pictures.items()
    ]
    data = {
        "version": 1,
        "prompt": shorten(prompt_of(traj, batch), 600),
        "details": details(traj, batch),
        "total": len(traj.timesteps),
        "index": index,
        "timesteps": json_numbers(traj.timesteps),
        "alphas": json_numbers(traj.alphas),
        "sigmas": json_numbers(traj.sigmas),
        "lanes": shown,
        "final": {"size": len(final), "alt": f"Final picture: {_alt(traj, batch)}"},
        "note": " ".join(_notes(traj, batch, fitted, arrays)),
    }
    parts = [one for frames in fitted.pictures.values() for one in frames.values()]
    maps = traj.attention if words else None
    more = b""
    if maps is not None and arrays and batch <= len(maps.others) and not is_hidden(traj, batch):
        data["attention"], more = attention_data(maps.of(batch), index)
    return Payload(data, b"".join([*parts, final, more]))


def _alt(traj: Trajectory, batch: int) -> str:
    return shorten(prompt_of(traj, batch), 160) or "no prompt"


def _lane(
    traj: Trajectory, lane: str, frames: list[bytes], array: NDArray[np.uint8], batch: int
) -> dict[str, Any]:
    title, caption = lane_words(lane)
    return {
        "name": lane,
        "title": title,
        "caption": caption,
        "picture": is_picture(lane),
        "crisp": is_crisp(traj, lane),
        "aspect": array.shape[2] / max(1, array.shape[1]),
        "alt": alt_text(traj, lane, 0, batch).split(" at step ")[0] + ": " + _alt(traj, batch),
        "sizes": [len(frame) for frame in frames],
    }


def json_numbers(values: NDArray[np.float64]) -> list[float | None]:
    """Five digits are plenty for a plot, and JSON has no NaN: it becomes null."""
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


def attention_data(maps: AttentionMaps, index: list[int]) -> tuple[dict[str, Any], bytes]:
    """What the player needs to show a word's map at each shown step: words, layers and bytes.

    Layers stand one after the other, in each the words, in each word the steps; one byte a place.
    The mean of all layers comes first; layers of their own follow where there is room.
    """
    keys = maps.shown[:40]
    blocks = [_small(np.stack([maps[key][index] for key in keys]))]
    layers = [("all layers", blocks[0])]
    sizes = [one.height * one.width for one in maps.layers]
    if sum(sizes) * len(keys) * len(index) <= MAX_MAPS - blocks[0].nbytes:
        for k, one in enumerate(maps.layers):
            every = [[maps.at(key, step=i, layer=k) for i in index] for key in keys]
            layers.append((layer_words(one.name), _small(np.array(every))))
    while layers[0][1].nbytes > MAX_MAPS and len(keys) > 1:  # a long prompt and many steps
        keys = keys[: len(keys) // 2]
        layers = [(layers[0][0], layers[0][1][: len(keys)])]
    data = {
        "words": [shorten(key_words(key), 40) for key in keys],
        "concepts": maps.concepts,
        "layers": [
            {"name": shorten(name, 60), "height": array.shape[2], "width": array.shape[3]}
            for name, array in layers
        ],
    }
    return data, b"".join(array.tobytes() for _, array in layers)


def _small(maps: Any) -> Any:
    """(words, steps, h, w) as bytes, each word from its darkest to its brightest, 32 at most."""
    step = max(1, -(-max(maps.shape[2:]) // 32))
    height, width = (size // step * step for size in maps.shape[2:])
    shape = (*maps.shape[:2], height // step, step, width // step, step)
    less = maps[..., :height, :width].reshape(shape).mean((3, 5))
    return np.stack([brightness(own) for own in less])


def _notes(traj: Trajectory, batch: int, fitted: Fitted, lanes: Drawn) -> Iterator[str]:
    if traj.batch_size > 1:
        yield f"Picture {batch + 1} of {traj.batch_size} of this batch."
    rung = fitted.rung
    if fitted.shrunk:
        largest = max((max(a.shape[1:3]) for a in lanes.values()), default=0)
        side = f"at most {min(rung.side, largest)} pixels a side, WebP quality {rung.quality}"
        steps = f", one step in {rung.every}" if rung.every > 1 else ""
        yield f"Shrunk to keep this output small: {side}{steps}. The record has everything."
    if not is_hidden(traj, batch) and (note := decoded_note(traj)):
        yield note
    missing = [lane for lane in PLAYER_LANES if not drawable(traj, lane)]
    if missing and lanes:
        names = " and ".join(lane_words(lane)[0].lower() for lane in missing)
        yield f"Not kept in this record: {names}."
    if not len(traj.timesteps) and not traj.stopped:
        yield "A picture and its call: record(pipe, **traj.keywords) makes the steps again."
    elif not lanes:
        yield f"This record keeps no lane that can be drawn ({', '.join(LANES[:3])})."


# --- in a cell, in a page ------------------------------------------------------------------------


def fragment(traj: Trajectory, batch: int = 0, arrays: Drawn | None = None) -> tuple[str, str]:
    """HTML that shows one picture of the batch, and the script that wakes its player.

    Returns:
        The HTML up to the script, and the module's source; a page hashes the source.

    Raises:
        RecordError: the batch has no such picture.
    """
    batch = index_of("batch", batch, traj.batch_size)
    arrays = drawn(traj, batch) if arrays is None else arrays
    payload = trajectory_payload(traj, batch, arrays=arrays)
    return inlined(payload, sheet_html(traj, batch, arrays=arrays, encoded=payload.cut()))


def inlined(payload: Payload, sheet: str) -> tuple[str, str]:
    """The HTML of a player over its sheet, and its script; see ``fragment``."""
    data = payload.data | {"frames": base64.b64encode(payload.frames).decode()}
    root = new_id()
    markup = (
        f'<div class="ldm-record" id="{root}"><style>{asset("player.css")}</style>{sheet}'
        f'<script type="application/json" class="ldm-data">{json_script(data)}</script></div>'
    )
    return markup, f'{module("player.mjs")}\nmountInlined("{root}");\n'


def mimebundle(traj: Trajectory) -> dict[str, Any]:
    """What a cell shows: the player over its sheet, else one picture, else a line of text."""
    arrays = drawn(traj)  # once for player, sheet and picture
    return bundled(fragment(traj, arrays=arrays), sheet_image(traj, arrays=arrays), repr(traj))


def page_html(traj: Trajectory, batch: int = 0) -> str:
    """The page as one string."""
    markup, script = fragment(traj, batch)
    title = shorten(prompt_of(traj, batch), 80) or "A recorded run"
    return whole_page(markup, script, title=title, footer=made_with("Recorded", traj.versions))


def write_run_page(traj: Trajectory, path: str | PathLike[str], *, batch: int = 0) -> Path:
    """Writes the page; see ``Trajectory.to_html``."""
    return write_page(path, page_html(traj, batch))
