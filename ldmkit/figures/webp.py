"""Pictures as WebP for a browser, as many and as good as fit a number of bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.records.rgb import flat

__all__ = ["LADDER", "MAX_BYTES", "Fitted", "Rung", "fit", "spread", "webp"]

# Databricks passes 5 MB in one message, Colab some 10: an output stays under 4 MB, of which
# base64 takes a quarter, the contact sheet and image/png up to 1 MB.
MAX_BYTES = 2_200_000
CELLS = 32 * 32  # single latents: exact colours cost nothing at this size
SMALL = 128 * 128  # small pictures are enlarged by the browser: no loss beforehand


class Rung(NamedTuple):
    """One way to spend bytes: longer side in pixels, WebP quality, every how many pictures."""

    side: int
    quality: int
    every: int

    def chosen(self, n: int) -> list[int]:
        """Which of ``n`` pictures it shows, counted from 0."""
        return spread(n, -(-n // self.every))


LADDER = (
    Rung(512, 85, 1),
    Rung(256, 82, 1),
    Rung(256, 60, 1),
    Rung(192, 60, 1),
    Rung(128, 50, 1),
    *(Rung(128, 50, 2**k) for k in range(1, 16)),
)


class Fitted(NamedTuple):
    """What was chosen.

    Attributes:
        rung: how it was shrunk.
        shrunk: whether that is less than what was asked for.
        pictures: lane -> number of the picture -> its WebP.
    """

    rung: Rung
    shrunk: bool
    pictures: dict[str, dict[int, bytes]]


Picture = Image.Image | NDArray[np.uint8]


def webp(
    picture: Picture,
    side: int,
    quality: int,
    *,
    exact: int = CELLS,
    method: int = 3,
    see_through: bool = False,
) -> bytes:
    """One WebP.

    Args:
        picture: a picture of any mode, or an array (h, w, 3).
        side: what is longer is made smaller, in proportion.
        quality: 0 to 100.
        exact: of so many pixels or less nothing is lost.
        method: 0 takes a fiftieth of the usual time, for a twentieth more bytes.
        see_through: whether what is transparent stays so; else it is white.
    """
    shown = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    shown = shown.convert("RGBA") if see_through else flat(shown)
    if max(shown.size) > side:
        shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    lossless = shown.width * shown.height <= exact
    file = io.BytesIO()
    shown.save(file, "WEBP", quality=quality, lossless=lossless, method=method)
    return file.getvalue()


def spread(n: int, most: int) -> list[int]:
    """At most ``most`` of ``n`` numbers from 0, evenly, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, n - 1, max(2, min(n, most)))}) if n else []


def fit(
    lanes: Mapping[str, Sequence[Picture] | NDArray[np.uint8]],
    max_bytes: int,
    *,
    side: int,
    exact: int = CELLS,
) -> Fitted:
    """The best rung of the ladder under the limit: quality goes first, then size, then pictures.

    Args:
        lanes: pictures or arrays (h, w, 3); each lane may hold its own number.
        max_bytes: of all pictures together.
        side: the longest that is wanted, one of ``LADDER``.
        exact: pictures of so many pixels or less lose nothing, until some are left out.
    """
    rungs = [rung for rung in LADDER if rung.side <= side]
    rung, pictures = rungs[0], {}
    done: dict[tuple[str, int, int, int, int], bytes] = {}

    def encoded(lane: str, steps: Sequence[int]) -> dict[int, bytes]:
        limit = exact if rung.every == 1 else min(exact, CELLS)
        for step in steps:
            key = (lane, step, rung.side, rung.quality, limit)
            if key not in done:
                done[key] = webp(lanes[lane][step], rung.side, rung.quality, exact=limit)
        return {step: done[lane, step, rung.side, rung.quality, limit] for step in steps}

    for rung in rungs:
        chosen = {lane: rung.chosen(len(own)) for lane, own in lanes.items()}
        estimate = 0.0
        for lane, steps in chosen.items():  # a few are tried before all
            sample = encoded(lane, range(0, len(lanes[lane]), max(1, len(lanes[lane]) // 4)))
            estimate += sum(map(len, sample.values())) / max(1, len(sample)) * len(steps)
        if estimate > 1.1 * max_bytes:
            continue
        pictures = {lane: encoded(lane, steps) for lane, steps in chosen.items()}
        if sum(len(one) for own in pictures.values() for one in own.values()) <= max_bytes:
            break
    return Fitted(rung, rung is not rungs[0], pictures)
