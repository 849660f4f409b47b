"""Which captions a drawing is trained with, and which drawings the empty caption goes with."""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from ldmkit.critters.language import silence
from ldmkit.recipes.common import scene


def captions_of(indices: NDArray[np.int64], seed: int) -> list[str]:
    """One phrasing of each scene; another seed phrases anew."""
    return [scene(int(i)).caption(seed * 1_000_003 + int(i)) for i in indices]


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
    """

    def __init__(self, count: int, empty: float = 0.1, power: float = 0.0) -> None:
        weights = np.array([silence(scene(i)) for i in range(count)]) ** power
        self._share = weights.cumsum() / weights.sum()
        self._empty = empty

    def batch(
        self, size: int, step: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], list[str]]:
        """Indices of drawings (size,), and their captions; the empty ones come last."""
        silent = int(rng.binomial(size, self._empty))
        spoken = np.sort(rng.integers(0, len(self._share), size - silent))
        captions = captions_of(spoken, step + 1) + [""] * silent
        return np.concatenate((spoken, self._unspoken(silent, rng))), captions

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
