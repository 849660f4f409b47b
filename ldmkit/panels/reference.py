"""Where a walk lies in its CLIP space: nearest captions, and a plane with its ends and the gap."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmkit.critters import Scene
from ldmkit.critters.world import ANIMALS, COLOURS, WEARS
from ldmkit.records import Embedding, Walk
from ldmkit.records.plane import Plane, units
from ldmkit.space.clip import ClipSpace, clip_space

__all__ = ["Reference", "nearest", "plane_of", "reference_for"]

SEED = 400_000  # of drawings to compare with; none is trained on or measured with
DRAWN = {True: 48, False: 12}  # pictures, for the embedded CLIP and for large ones
SHOWN = 60  # captions that are drawn as points
COUNT = 3  # captions told
# Words for models that know more than critters.
THINGS = (
    "cat", "dog", "bird", "horse", "fish", "car", "house", "tree", "flower", "mountain", "beach",
    "city", "boat", "bicycle", "chair", "cup", "book", "man", "woman", "child", "robot", "castle",
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """Captions and pictures that a point is compared with.

    Attributes:
        clip: the space.
        captions: embeddings of texts.
        pictures: embeddings of drawings; empty where nothing encodes pictures.
    """

    clip: ClipSpace
    captions: tuple[Embedding, ...]
    pictures: tuple[Embedding, ...]


_made: weakref.WeakKeyDictionary[Any, Reference] = weakref.WeakKeyDictionary()


def reference_for(pipe: Any, embedded: bool, captions: Sequence[str] | None = None) -> Reference:
    """Encodes captions and drawings once for a pipeline.

    Args:
        pipe: a pipeline with a CLIP.
        embedded: whether it is the embedded one, which knows critters.
        captions: to compare with; by default critters, or common things.

    Raises:
        TypeError: a pipeline without a CLIP.
        RuntimeError: its CLIP has no text half.
    """
    if captions is None and pipe in _made:
        return _made[pipe]
    clip = clip_space(pipe)
    words = list(captions) if captions is not None else _captions(embedded)
    drawings = [Scene.sample(SEED + i).draw() for i in range(DRAWN[embedded])]
    try:
        pictures = tuple(clip.encode_image(drawings))
    except RuntimeError:  # a CLIP without its eye for pictures still tells the nearest captions
        pictures = ()
    made = Reference(clip, tuple(clip.encode_text(words)), pictures)
    if captions is None:
        _made[pipe] = made
    return made


def _captions(embedded: bool) -> list[str]:
    if not embedded:
        return [f"a photo of a {thing}" for thing in THINGS]
    return [
        f"a {colour} {animal}" + ("" if wears == "nothing" else f" with {_article(wears)}")
        for animal in ANIMALS
        for colour in COLOURS
        for wears in WEARS
    ]


def _article(wears: str) -> str:
    return wears if wears == "glasses" else f"a {wears}"


def nearest(reference: Reference, points: Sequence[Embedding]) -> list[list[tuple[str, float]]]:
    """For each point the captions whose cosine with it is largest, the nearest first."""
    cosines = reference.clip.similarity(list(points), list(reference.captions))
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :COUNT]
    return [
        [(reference.captions[i].label, float(cosines[row, i])) for i in best]
        for row, best in enumerate(order)
    ]


def plane_of(reference: Reference, walk: Walk, texts: Sequence[Embedding] = ()) -> dict[str, Any]:
    """Points of a plane that holds the way from end to end and, upwards, the way to the texts.

    Args:
        reference: what is drawn beside the walk.
        walk: with its embeddings.
        texts: embeddings of words that belong to the walk; drawn with their labels.

    Returns:
        JSON-able: ``texts``, ``pictures``, ``path`` as lists of (x, y), ``own`` of (x, y, label),
        and ``words`` for both axes; empty where no picture can be encoded.
    """
    if not reference.pictures:
        return {}
    ends = walk.embeddings[0], walk.embeddings[-1]
    plane = _plane(reference, ends)

    def points(some: Sequence[Embedding]) -> list[list[float]]:
        return [[round(float(x), 4) for x in point] for point in plane.project(list(some))]

    captions = reference.captions[:: max(1, len(reference.captions) // SHOWN)]
    places = points(texts) if texts else []
    own = [[*place, one.label] for place, one in zip(places, texts, strict=True)]
    return {
        "texts": points(captions),
        "pictures": points(reference.pictures),
        "path": points(walk.embeddings),
        "own": own,
        "words": list(plane.words),
    }


def _plane(reference: Reference, ends: tuple[Embedding, Embedding]) -> Plane:
    texts, model = units(reference.captions, least=1)
    pictures, _ = units(reference.pictures, least=1)
    (first, last), _ = units(ends, least=2)
    along = last - first
    if np.linalg.norm(along) < 1e-6:  # two equal ends: any direction shows the point
        along = pictures[0] - pictures[-1]
    along = along / np.linalg.norm(along)
    up = texts.mean(axis=0) - pictures.mean(axis=0)
    up = up - (up @ along) * along
    up = up / max(float(np.linalg.norm(up)), 1e-12)
    middle = (first + last) / 2
    words = ("from the first end to the last", "from pictures to texts")
    return Plane(middle, np.stack([along, up]), np.zeros(2), words, model)
