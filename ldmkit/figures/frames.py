"""A record as what the player eats: one JSON-able dict and one block of WebP bytes.

The inlined page carries the bytes as base64, a panel sends them as they are: one code path in
``player.mjs`` serves both. The block is kept under ``MAX_BYTES`` by shrinking quality first,
then size, then the number of steps, and ``note`` says so.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.figures.words import alt_text, details, lane_words, layer_words, prompt_of, shorten
from ldmkit.records import AttentionMaps, Trajectory
from ldmkit.records.attention import brightness, key_words
from ldmkit.records.pictures import (
    LANES,
    drawable,
    is_crisp,
    is_hidden,
    is_picture,
    lane_array,
)
from ldmkit.records.rgb import flat

__all__ = [
    "MAX_BYTES",
    "Drawn",
    "Payload",
    "attention_data",
    "drawn",
    "json_numbers",
    "shown_lanes",
    "trajectory_payload",
    "webp",
]

Drawn = Mapping[str, NDArray[np.uint8]]  # lane -> (n, H, W, 3)

# Databricks passes 5 MB in one message, Colab some 10: an output stays under 4 MB, of which
# base64 takes a quarter, the contact sheet and image/png up to 1 MB.
MAX_BYTES = 2_200_000
MAX_MAPS = 450_000  # of attention maps beside the pictures
PLAYER_LANES = ("latents", "denoised", "noise_pred")
LOSSLESS_PIXELS = 32 * 32  # single latents: exact colours cost nothing at this size


class Rung(NamedTuple):
    """One way to spend bytes: longer side in pixels, WebP quality, every how many steps."""

    side: int
    quality: int
    every: int


LADDER = (
    Rung(256, 82, 1),
    Rung(256, 60, 1),
    Rung(192, 60, 1),
    Rung(128, 50, 1),
    *(Rung(128, 50, 2**k) for k in range(1, 16)),
)


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


def shown_lanes(traj: Trajectory) -> list[str]:
    """The lanes that the player can show of this record."""
    if not len(traj.timesteps):  # stopped before its first step
        return []
    return [lane for lane in PLAYER_LANES if drawable(traj, lane)]


def drawn(traj: Trajectory, batch: int = 0, lanes: Sequence[str] | None = None) -> Drawn:
    """The lanes of one picture of the batch as arrays, by default those that the player shows."""
    names = shown_lanes(traj) if lanes is None else lanes
    return {lane: lane_array(traj, lane, batch) for lane in names}


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
    rung, encoded = _fit(arrays, max_bytes)
    final = b""
    if batch < len(traj.images):
        final = webp(traj.images[batch], max(rung.side, 512 if rung is LADDER[0] else 0), 85)
    index = _shown(len(traj.timesteps), rung.every)
    data = {
        "version": 1,
        "prompt": shorten(prompt_of(traj, batch), 600),
        "details": details(traj, batch),
        "total": len(traj.timesteps),
        "index": index,
        "timesteps": json_numbers(traj.timesteps),
        "alphas": json_numbers(traj.alphas),
        "sigmas": json_numbers(traj.sigmas),
        "lanes": [_lane(traj, lane, encoded[lane], arrays[lane], batch) for lane in arrays],
        "final": {"size": len(final), "alt": f"Final picture: {_alt(traj, batch)}"},
        "note": " ".join(_notes(traj, batch, rung, arrays)),
    }
    frames = b"".join(b"".join(parts) for parts in encoded.values()) + final
    maps = traj.attention if words else None
    if maps is not None and arrays and batch <= len(maps.others) and not is_hidden(traj, batch):
        data["attention"], more = attention_data(maps.of(batch), index)
        frames += more
    return Payload(data, frames)


def _shown(n: int, every: int) -> list[int]:
    """About one step in ``every``, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, n - 1, -(-n // every))}) if n else []


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


def _fit(lanes: Drawn, max_bytes: int) -> tuple[Rung, dict[str, list[bytes]]]:
    """The first rung of the ladder under the limit; a few frames are tried before all."""
    encoded: dict[str, list[bytes]] = {}
    rung = LADDER[0]
    done: dict[tuple[str, int, int, int], bytes] = {}  # lane, step, side, quality

    def encode(lane: str, steps: Sequence[int]) -> list[bytes]:
        for step in steps:
            key = (lane, step, rung.side, rung.quality)
            if key not in done:
                done[key] = webp(Image.fromarray(lanes[lane][step]), rung.side, rung.quality)
        return [done[lane, step, rung.side, rung.quality] for step in steps]

    for rung in LADDER:
        shown = {lane: _shown(len(array), rung.every) for lane, array in lanes.items()}
        estimate = 0.0
        for lane, steps in shown.items():
            sample = encode(lane, range(0, len(lanes[lane]), max(1, len(lanes[lane]) // 4)))
            estimate += sum(map(len, sample)) / max(1, len(sample)) * len(steps)
        if estimate > 1.1 * max_bytes:
            continue
        encoded = {lane: encode(lane, steps) for lane, steps in shown.items()}
        if sum(len(frame) for parts in encoded.values() for frame in parts) <= max_bytes:
            break
    return rung, encoded


def webp(picture: Image.Image, side: int, quality: int) -> bytes:
    """One WebP, at most ``side`` pixels long; lossless where single latents are meant."""
    picture = flat(picture)
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    exact = picture.width * picture.height <= LOSSLESS_PIXELS
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality, lossless=exact, method=3)
    return file.getvalue()


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


def _notes(traj: Trajectory, batch: int, rung: Rung, lanes: Drawn) -> Iterator[str]:
    if traj.batch_size > 1:
        yield f"Picture {batch + 1} of {traj.batch_size} of this batch."
    if rung is not LADDER[0]:
        largest = max((max(a.shape[1:3]) for a in lanes.values()), default=0)
        side = f"at most {min(rung.side, largest)} pixels a side, WebP quality {rung.quality}"
        steps = f", one step in {rung.every}" if rung.every > 1 else ""
        yield f"Shrunk to keep this output small: {side}{steps}. The record has everything."
    missing = [lane for lane in PLAYER_LANES if not drawable(traj, lane)]
    if missing and lanes:
        names = " and ".join(lane_words(lane)[0].lower() for lane in missing)
        yield f"Not kept in this record: {names}."
    if not len(traj.timesteps) and not traj.stopped:
        yield "A picture and its call: record(pipe, **traj.keywords) makes the steps again."
    elif not lanes:
        yield f"This record keeps no lane that can be drawn ({', '.join(LANES[:3])})."
