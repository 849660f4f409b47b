"""Which captions a drawing is trained with, and which drawings the empty caption goes with."""

from __future__ import annotations

import argparse
from dataclasses import replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from ldmkit.critters.language import OMISSIBLE, silence
from ldmkit.critters.scene import Scene
from ldmkit.recipes.common import scene


def captions_of(indices: NDArray[np.int64], seed: int, omitted: float = 0.0) -> list[str]:
    """One phrasing of each scene; another seed phrases anew.

    Args:
        indices: of the scenes.
        seed: of the phrasings.
        omitted: how probably what a critter wears, or its mood, goes unsaid although the grammar
            would have said it.
    """
    seeds = [seed * 1_000_003 + int(i) for i in indices]
    scenes = [scene(int(i)) for i in indices]
    return [_reticent(s, k, omitted).caption(k) for s, k in zip(scenes, seeds, strict=True)]


def _reticent(scene: Scene, seed: int, omitted: float) -> Scene:
    """The scene with some of its hats and moods unsaid."""
    if not omitted:
        return scene
    rng = Random(f"omit {seed}")
    critters = tuple(
        replace(critter, **{name: None for name in OMISSIBLE if rng.random() < omitted})
        for critter in scene.critters
    )
    return replace(scene, critters=critters)


class Captioned:
    """Batches of training drawings with captions, some of them empty for guidance.

    Guidance pushes a picture from what the empty caption makes towards what the words make, and
    what both make alike it leaves alone. An unsaid hat is mostly no hat: where the empty caption
    is shown with all drawings alike, with hats in seven of ten, guidance turns "not said" into
    "surely none". `language.silence` weighs each drawing by how probably nobody would speak of it.

    Args:
        count: of training drawings.
        empty: share of empty captions.
        power: of a drawing's probability of silence: 0 shows the empty caption with all drawings
            alike; above 1, what goes without saying is shown even more often, and guidance, which
            narrows what is left open, is held against.
        omitted: how probably what a critter wears, or its mood, is left out of a caption. A small
            model makes less of the rarer values than there is of them; this gives them back.
        mistaken: share of the captions that have nothing to do with their drawing, as on the web.
            The drawing is then one of those that empty captions go with: what wrong captions teach
            is what guidance pushes away from.
    """

    def __init__(
        self,
        count: int,
        empty: float = 0.1,
        power: float = 0.0,
        omitted: float = 0.0,
        mistaken: float = 0.0,
    ) -> None:
        weights = np.array([silence(scene(i), omitted) for i in range(count)]) ** power
        self._share = weights.cumsum() / weights.sum()
        self._empty = empty
        self._omitted = omitted
        self._mistaken = mistaken

    def batch(
        self, size: int, step: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], list[str]]:
        """Indices of drawings (size,), and their captions; the empty ones come last."""
        silent = int(rng.binomial(size, self._empty))
        spoken = np.sort(rng.integers(0, len(self._share), size - silent))
        captions = captions_of(spoken, step + 1, self._omitted) + [""] * silent
        drawings = np.concatenate((spoken, self._unspoken(silent, rng)))
        wrong = np.flatnonzero(rng.random(len(spoken)) < self._mistaken)
        drawings[wrong] = self._unspoken(len(wrong), rng)
        return drawings, captions

    def _unspoken(self, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return np.minimum(np.searchsorted(self._share, rng.random(size)), len(self._share) - 1)


def empty_captions(parser: argparse.ArgumentParser) -> None:
    """The options of `Captioned`."""
    parser.add_argument("--empty", type=float, default=0.1, help="share of empty captions")
    parser.add_argument(
        "--silence",
        type=float,
        default=0.0,
        help="how strongly empty captions keep to drawings of which nothing would be said:\n"
        "0 not at all, 1 as probability has it",
    )
    parser.add_argument(
        "--omit",
        type=float,
        default=0.0,
        help="how probably what a critter wears, or its mood, is left out of a caption",
    )
    parser.add_argument(
        "--mistaken",
        type=float,
        default=0.0,
        help="share of captions that have nothing to do with their drawing",
    )
