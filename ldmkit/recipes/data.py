"""What the models are shown: drawings, kept on disk, and the captions that go with them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ldmkit.critters.language import OMISSIBLE, silence
from ldmkit.critters.scene import Scene
from ldmkit.critters.world import EVALUATION_SEED, VERSION
from ldmkit.records.record import write_atomically

TUNING_SEED = 400_000  # up to `EVALUATION_SEED`: what runs watch themselves by, and are tuned on
_MOST = 10_000_000  # training drawings
_CHUNK = 500  # drawings per task of the pool


# --- drawings ----------------------------------------------------------------------------------


def scene(index: int) -> Scene:
    """The scene of a training (below `EVALUATION_SEED`) or evaluation index; never held out."""
    return Scene.sample(index, held_out=False)


def _draw(seeds: range) -> NDArray[np.uint8]:
    return np.stack([np.asarray(scene(i).draw(64, i)) for i in seeds])


def _keep_apart(count: int, start: int) -> None:
    for border, what in ((TUNING_SEED, "tuning"), (EVALUATION_SEED, "evaluation")):
        if start < border < start + count:
            raise ValueError(
                f"drawings {start}…{start + count} cross {border}: {what} is kept apart, ask for "
                "fewer"
            )


def drawn(count: int, start: int) -> Iterator[NDArray[np.uint8]]:
    """Draw scenes ``start … start + count``, 500 at a time, on all cores; nothing is kept.

    Args:
        count: how many, a multiple of 500.
        start: first index.

    Yields:
        (500, 64, 64, 3) uint8.

    Raises:
        ValueError: as `drawings`.
    """
    _keep_apart(count, start)
    chunks = [range(i, i + _CHUNK) for i in range(start, start + count, _CHUNK)]
    few = 4 * (os.cpu_count() or 1)  # a pool runs ahead of who asks: no further than this
    with ProcessPoolExecutor() as pool, tqdm(total=len(chunks), desc="drawing") as bar:
        for i in range(0, len(chunks), few):
            for chunk in pool.map(_draw, chunks[i : i + few]):
                bar.update()
                yield chunk


def drawings(count: int, start: int, cache: Path) -> NDArray[np.uint8]:
    """Draw scenes ``start … start + count`` once and keep them beside the runs.

    Args:
        count: how many, a multiple of 500.
        start: first index; training indices end before `TUNING_SEED`.
        cache: folder for the uncompressed ``.npy``.

    Returns:
        (count, 64, 64, 3) uint8, memory-mapped.

    Raises:
        ValueError: when the range touches two of training, tuning and evaluation indices.
    """
    _keep_apart(count, start)
    path = cache / f"drawings-v{VERSION}-{start}-{count}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        save_array(path, np.concatenate(list(drawn(count, start))))
    pictures: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pictures


def training_seeds(count: int) -> NDArray[np.int64]:
    """The seeds of the first training drawings.

    They are 0 … 399,999 and, as those from there on are for tuning and evaluation, then
    -9,600,000 … -1.

    Args:
        count: how many, up to ten million.

    Raises:
        ValueError: more than that.
    """
    if count > _MOST:
        raise ValueError(f"there are {_MOST} training drawings, got {count}: ask for fewer")
    numbers = np.arange(count)
    return np.where(numbers < TUNING_SEED, numbers, numbers - _MOST)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Writes an ``.npy`` whole or not at all, whichever of two runs is first."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.save(file, array)

    write_atomically(path, write)


def unseen(cache: Path) -> NDArray[np.uint8]:
    """1,000 drawings of evaluation scenes, (1000, 64, 64, 3), in memory."""
    return np.array(drawings(1000, EVALUATION_SEED, cache))


def to_tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) float32 in -1…1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


# --- captions ----------------------------------------------------------------------------------


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
    """The options of `Captioned` that say how often, and with what, captions are empty."""
    parser.add_argument("--empty", type=float, default=0.1, help="share of empty captions")
    parser.add_argument(
        "--silence",
        type=float,
        default=0.0,
        help="how strongly empty captions keep to drawings of which nothing would be said:\n"
        "0 not at all, 1 as probability has it",
    )
