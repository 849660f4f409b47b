"""``WalkView``: a walk's pictures under one slider that the browser moves alone.

Each picture is encoded once and crosses once, as soon as it is made; dragging then sends nothing.
As in a ``TrajectoryPanel``, stock widgets stand in where anywidget's front end is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anywidget
import ipywidgets
import traitlets
from PIL import Image

from ldmkit.figures.html import asset, module, shorten, text
from ldmkit.figures.webp import SMALL, webp
from ldmkit.panels.trajectory import REASON, STYLE

__all__ = ["MOST_FRAMES", "Shown", "WalkView"]

MOST_FRAMES = 64  # a browser holds them all

SIDE = 512  # pixels


@dataclass(frozen=True)
class Shown:
    """What a view shows of a walk that is made or in the making.

    Attributes:
        pictures: those made so far.
        total: how many there will be.
        t: their places.
        axis: what ``t`` is called.
        labels: words for each.
        verdicts: sentences on what was seen in each, lines of their own, or empty.
        nearest: captions and their cosines for each, or empty.
        plane: see ``landmarks.plane_of``; or empty.
        title: words above all.
        details: how it was made, in words.
    """

    pictures: Sequence[Image.Image] = ()
    total: int = 0
    t: Sequence[float] = ()
    axis: str = "t"
    labels: Sequence[str] = ()
    verdicts: Sequence[str] = ()
    nearest: Sequence[Sequence[tuple[str, float]]] = ()
    plane: dict[str, Any] | None = None
    title: str = ""
    details: Sequence[str] = ()

    def data(self) -> dict[str, Any]:
        """Its words and numbers, as the view takes them."""
        places = [
            {
                "place": "" if label == (place := f"{self.axis} = {t:.2g}") else place,
                "label": shorten(label, 160),
                "seen": _lines(self.verdicts[i]) if i < len(self.verdicts) else "",
                "nearest": [
                    [shorten(words, 80), round(cosine, 3)]
                    for words, cosine in (self.nearest[i] if i < len(self.nearest) else ())
                ],
            }
            for i, (t, label) in enumerate(zip(self.t, self.labels, strict=True))
        ]
        return {
            "title": shorten(self.title, 300),
            "details": " · ".join(self.details),
            "total": self.total,
            "places": places,
            "plane": self.plane or {},
        }


class _View(anywidget.AnyWidget):
    """The custom view."""

    _esm = module("walk.mjs", "ldmkit.panels")
    _css = asset("player.css") + asset("walk.css", "ldmkit.panels")

    # A trait for each picture: what is synced is sent whole, so that one trait for all of them
    # would send the first of 24 pictures 24 times.
    locals().update(
        {
            f"frame_{i}": traitlets.Bytes(help="A picture as WebP, or nothing.").tag(sync=True)
            for i in range(MOST_FRAMES)
        }
    )
    count = traitlets.Int(0, help="How many pictures there are.").tag(sync=True)
    data = traitlets.Dict(help="Words and numbers.").tag(sync=True)
    place = traitlets.Int(0, help="The picture shown, from 0.").tag(sync=True)
    awake = traitlets.Bool(False, help="True once a view stands.").tag(sync=True)


class WalkView(ipywidgets.VBox):
    """The view and its stand-in; ``place`` is the picture shown, told when the slider rests."""

    place = traitlets.Int(0, help="The picture shown, from 0.")

    def __init__(self) -> None:
        self._view = _View()
        self._pictures: list[Image.Image] = []
        self._frames: list[bytes] = []
        self._slider = ipywidgets.IntSlider(min=0, max=1, description="Place", readout=False)
        self._slider.style.description_width = "initial"
        self._slider.layout.width = "min(100%, 480px)"
        self._image = ipywidgets.Image(format="webp")
        self._image.layout.width = "256px"
        self._words = ipywidgets.HTML()
        note = ipywidgets.HTML(f"{STYLE}<small>{REASON}</small>")
        self._stock = ipywidgets.VBox([self._image, self._words, self._slider, note])
        self._stock.add_class("ldm-stock")
        super().__init__([self._view, self._stock])
        for name in ("ldm-panel", "ldm-walk-view", "ldm-empty"):
            self.add_class(name)
        traitlets.link((self, "place"), (self._view, "place"))
        traitlets.link((self, "place"), (self._slider, "value"))
        self.observe(lambda _: self._draw_stock(), names=["place"])
        self._view.observe(lambda _: self._rest(), names=["awake"])

    def show(self, shown: Shown) -> None:
        """Shows other pictures in the same place."""
        pictures = list(shown.pictures)
        frames = [self._encoded(i, picture) for i, picture in enumerate(pictures)]
        last = max(0, len(pictures) - 1)
        with self._view.hold_sync():  # one message, one drawing
            for i in range(max(len(frames), len(self._frames))):
                setattr(self._view, f"frame_{i}", frames[i] if i < len(frames) else b"")
            self._view.count, self._view.data = len(frames), shown.data()
        self._pictures, self._frames = pictures, frames
        self._slider.max = max(1, last, self.place)
        if self.place > last:
            self.place = last
        self._slider.max = max(1, last)
        (self.remove_class if shown.pictures else self.add_class)("ldm-empty")
        self._draw_stock()

    def clear(self) -> None:
        """Lets go of the pictures."""
        self._pictures, self._frames = [], []

    def _encoded(self, i: int, picture: Image.Image) -> bytes:
        """The picture as WebP; what is shown in its place already is not encoded again."""
        if i < len(self._pictures):
            before = self._pictures[i]
            if before is picture or before == picture:
                return self._frames[i]
        return webp(picture, SIDE, 85, exact=SMALL)

    def _draw_stock(self) -> None:
        if self._view.awake or not self._frames:
            return
        places, i = self._view.data["places"], min(self.place, len(self._frames) - 1)
        self._image.value = self._frames[i]
        place = places[i] if i < len(places) else {}
        lines = [place.get("place", ""), place.get("label", "")]
        lines += place.get("seen", "").splitlines()
        lines += [f"{words} ({cosine:.2f})" for words, cosine in place.get("nearest", ())]
        self._words.value = "<br>".join(text(line) for line in lines if line)

    def _rest(self) -> None:
        """The view stands: spare the stand-in's pictures, also in browsers without ``:has``."""
        self._stock.layout.display = "none"


def _lines(words: str) -> str:
    return "\n".join(shorten(line, 200) for line in words.splitlines())
