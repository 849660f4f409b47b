"""``Walk``: pictures along a path between points, with the numbers that name each place on it.

A walk says where it went (``space``), how (``method``) and what was held fixed (``seed``,
``call``), so that it can be walked again. It is made by ``interpolate`` and ``text_diff``, which
live elsewhere: this file knows numpy and pillow only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.check import cut, short
from ldmkit.records import png as _png
from ldmkit.records.display import drawn
from ldmkit.records.embedding import Embedding
from ldmkit.records.pictures import write_animation
from ldmkit.records.record import (
    MAX_BYTES,
    Arrays,
    RecordError,
    check_seed,
    copied,
    entries_of,
    frozen,
    images_of,
    index_of,
    open_record,
    pack_pictures,
    save_record,
    string,
    unpack_pictures,
)
from ldmkit.records.rgb import flat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Walk"]

TOLD = ("title", "axis", "space", "method", "seed", "call", "model", "versions")  # in a PNG, too
WORDS = ("labels", *TOLD, "verdicts")
EMBEDDING_WORDS = ("label", "kind", "model", "compound")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Walk:
    """Pictures along a path: one per place ``t``, the ends among them.

    k places, in the order in which they are walked.

    Attributes:
        images: k pictures of one size, RGB.
        labels: k lines of words, one per picture; words of a caption are untrusted.
        t: (k,) float64, the place of each picture, rising; 0…1 for an interpolation, θ for a
            text diff.
        embeddings: k ``Embedding`` values where the path lies in CLIP's space, else empty.
        points: (k, ...) float32, the places themselves where the path lies in another space
            (prompt embeddings, latents, noise); ``None`` where they were not kept.
        title: what the walk is, in words; by default from the first label to the last.
        axis: what ``t`` is called.
        space: where the path lies, such as ``"clip_image"``.
        method: how it goes from one point to the next, ``"slerp"`` or ``"lerp"``.
        seed: of the noise that stays the same all along; ``None`` where there is none.
        call: the keywords of the run, as far as JSON can hold them.
        model: name of the pipeline.
        versions: of the packages that a picture depends on.
        verdicts: k lines on what was seen in each picture; may be empty.

    Raises:
        RecordError: a field has the wrong type, or counts other places than ``t``.
    """

    images: tuple[Image.Image, ...]
    labels: tuple[str, ...]
    t: NDArray[np.float64]
    embeddings: tuple[Embedding, ...] = ()
    points: NDArray[np.float32] | None = None
    title: str = ""
    axis: str = "t"
    space: str = ""
    method: str = ""
    seed: int | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    verdicts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name in ("labels", "embeddings", "verdicts"):
            put(name, entries_of(name, getattr(self, name)))
        for name in ("call", "versions"):
            put(name, copied(name, getattr(self, name)))
        put("images", tuple(flat(image, tell=True) for image in images_of(self.images)))
        self._check_words()
        put("t", self._places())
        if self.points is not None:
            put("points", frozen("points", self.points, np.float32))
        self._entries_ofs()
        if not self.title and self.labels:
            put("title", f"{self.labels[0]} → {self.labels[-1]}")

    def _check_words(self) -> None:
        for name in ("title", "axis", "space", "method", "model"):
            string(name, getattr(self, name))
        for name in ("labels", "verdicts"):
            if not all(isinstance(words, str) for words in getattr(self, name)):
                raise RecordError(f"{name} must be strings, one per picture; use str(value).")
        if not all(isinstance(embedding, Embedding) for embedding in self.embeddings):
            raise RecordError("embeddings must be Embedding values; arrays go into points.")
        if len({len(embedding) for embedding in self.embeddings}) > 1:
            raise RecordError("embeddings must be of one space; encode all with one clip_space.")
        if self.seed is not None and (isinstance(self.seed, bool) or type(self.seed) is not int):
            raise RecordError(f"seed must be int or None, got {type(self.seed).__name__}.")
        if self.seed is not None:
            check_seed("seed", self.seed)

    def _places(self) -> NDArray[np.float64]:
        try:
            t: NDArray[np.float64] = frozen("t", self.t, np.float64)
        except RecordError:
            t = np.empty(0)
        if t.ndim != 1 or not len(t) or not np.isfinite(t).all() or (np.diff(t) < 0).any():
            raise RecordError(
                f"t must be finite numbers that rise, one per picture, got {short(self.t)}; "
                "use numpy.linspace(0, 1, k)."
            )
        return t

    def _entries_ofs(self) -> None:
        k = len(self.t)
        for name in ("images", "labels", "embeddings", "verdicts"):
            count = len(getattr(self, name))
            if count != k and (count or name in ("images", "labels")):
                raise RecordError(
                    f"{name} must hold {k} entries, one per place t, got {count}; add or drop some."
                )
        if self.points is not None and (self.points.ndim < 2 or len(self.points) != k):
            raise RecordError(
                f"points must have the shape ({k}, ...), got {self.points.shape}; "
                "stack one point per place t."
            )
        sizes = sorted({image.size for image in self.images})
        if len(sizes) != 1:
            raise RecordError(f"images must be of one size, got {short(sizes)}; resize them.")

    def __len__(self) -> int:
        return len(self.t)

    def figure(self) -> Figure:
        """Returns a matplotlib figure: the pictures in a row, each with its place.

        Where the walk has embeddings, their cosine to both ends is plotted below.
        """
        return drawn("walk", self)

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Writes one self-contained page with a slider (no network, no kernel); returns its path.

        Args:
            path: the file to write; replaced as a whole or not at all.

        Raises:
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        return drawn("walk's page", self, path)

    def to_gif(
        self,
        path: str | PathLike[str],
        *,
        duration: float = 150,
        size: int = 256,
        bounce: bool = True,
    ) -> Path:
        """Writes the walk as an animated GIF; returns its path.

        Args:
            path: the file to write; replaced as a whole or not at all.
            duration: milliseconds that each picture is shown, 20 to 60,000.
            size: the longer side in pixels, 16 to 2,048.
            bounce: whether the walk goes back the way it came, so that it repeats smoothly.

        Raises:
            RecordError: a number out of its range.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        return self._animation(path, "GIF", duration, size, bounce)

    def to_webp(
        self,
        path: str | PathLike[str],
        *,
        duration: float = 150,
        size: int = 256,
        bounce: bool = True,
    ) -> Path:
        """Writes the walk as an animated WebP, smaller and truer in colour; see ``to_gif``."""
        return self._animation(path, "WEBP", duration, size, bounce)

    def _animation(
        self, path: str | PathLike[str], kind: str, duration: float, size: int, bounce: bool
    ) -> Path:
        frames = self.images + (self.images[-2:0:-1] if bounce else ())
        return write_animation(path, frames, kind, duration=duration, size=size)

    def to_png(self, path: str | PathLike[str], index: int | None = None) -> Path:
        """Writes one picture, or all of them in rows, with the walk's words inside.

        Args:
            path: the file to write; replaced as a whole or not at all.
            index: which picture, from 0; by default all, as a contact sheet.

        Raises:
            RecordError: no such picture, or words that JSON can't hold.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        told: dict[str, Any] = {name: getattr(self, name) for name in TOLD}
        at = slice(None)
        if index is not None:
            index = index_of("index", index, len(self))
            at = slice(index, index + 1)
        told |= {"labels": self.labels[at], "t": self.t[at].tolist()}
        picture = drawn("walk's sheet", self) if index is None else self.images[index]
        return _png.write(path, picture, {"format": "walk", **told})

    def save(self, path: str | PathLike[str]) -> Path:
        """Writes the record as one safetensors file, every bit kept; returns its path.

        Args:
            path: the file to write; replaced as a whole or not at all.

        Raises:
            RecordError: ``call`` is not JSON.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        arrays = {"t": self.t, **pack_pictures(self.images)}
        if self.points is not None:
            arrays["points"] = self.points
        if self.embeddings:
            arrays["embeddings"] = np.stack([e.vector for e in self.embeddings])
        words = {name: getattr(self, name) for name in WORDS}
        words["embeddings"] = [
            {name: getattr(e, name) for name in EMBEDDING_WORDS} for e in self.embeddings
        ]
        return save_record(path, "walk", arrays, words)

    @classmethod
    def open(cls, path: str | PathLike[str], *, max_bytes: int = MAX_BYTES) -> Walk:
        """Reads a walk that ``save`` wrote, its claims compared with the file before use.

        Raises:
            RecordError: the file is truncated, foreign, too large or contradicts itself.
            OSError: the file is missing or not readable.
        """
        return open_record(path, "walk", _unpack, max_bytes=max_bytes)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return drawn("walk's cell", self)

    def __repr__(self) -> str:
        title = cut(" ".join(self.title.split()), 60)
        how = " ".join(filter(None, (self.method, f"in {self.space}" if self.space else "")))
        return f"Walk({title!r}, {len(self)} pictures, {how or 'by hand'}, seed={self.seed})"


def _unpack(arrays: Arrays, words: Mapping[str, Any]) -> Walk:
    vectors = arrays.get("embeddings")
    embeddings = () if vectors is None else zip(vectors, words["embeddings"], strict=True)
    return Walk(
        images=tuple(unpack_pictures(arrays)),
        t=arrays["t"],
        points=arrays.get("points"),
        embeddings=tuple(
            Embedding(vector=vector, **{name: entry[name] for name in EMBEDDING_WORDS})
            for vector, entry in embeddings
        ),
        **{name: words[name] for name in WORDS},
    )
