"""How far the judge's word on animals can be trusted: its confidence, made to match its hits.

A recogniser that has only seen clean drawings is too sure of unclear ones. One temperature is
fitted on pictures that get worse and worse (Guo et al. 2017, arXiv 1706.04599), and the expected
calibration error (ECE) is measured on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from ldmkit.critters.judging import HEADS, recogniser
from ldmkit.critters.scene import Scene
from ldmkit.critters.world import EVALUATION_SEED
from ldmkit.recipes.common import TUNING_SEED, to_tensor

_COUNT = 600
_SURE = 0.8  # a middle is an animal when the judge would be right four times in five


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature.

    Attributes:
        temperature: what logits of the animal are divided by.
        ece: the expected calibration error on evaluation pictures, ten bins.
        threshold: the confidence from which on a picture counts as one animal.
    """

    temperature: float
    ece: float
    threshold: float = _SURE

    def one_animal(self, pictures: Sequence[Image.Image]) -> list[bool]:
        """Whether each picture shows one critter, and an animal that the judge is sure of."""
        x = to_tensor(np.stack([np.asarray(p.convert("RGB").resize((64, 64))) for p in pictures]))
        with torch.no_grad():
            logits = recogniser()(x)
        number = logits["number"].argmax(-1) == HEADS["number"].index("one")
        confidence = (logits["animal"] / self.temperature).softmax(-1).amax(-1)
        return [bool(v) for v in number & (confidence >= self.threshold)]


def calibration() -> Calibration:
    """Fit on tuning seeds, measure on evaluation seeds."""
    logits, right = answers(TUNING_SEED)
    temperatures = np.exp(np.linspace(np.log(0.5), np.log(8), 200))
    losses = [float(functional.cross_entropy(logits / t, right)) for t in temperatures]
    best = float(temperatures[int(np.argmin(losses))])
    logits, right = answers(EVALUATION_SEED + 80_000)
    confidence, found = (logits / best).softmax(-1).max(-1)
    return Calibration(best, ece(confidence.numpy(), (found == right).numpy()))


@torch.no_grad()
def answers(start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The judge's animal logits on drawings that get less and less clear, and the truth.

    Each drawing is mixed with the drawing of another animal (its share 0…1/2: the first one
    stays the larger part) and blurred a little: what a bad walk looks like.
    """
    rng = np.random.default_rng(start)
    first, second = (_one_critter(start + k * 20_000) for k in (0, 1))
    share = torch.from_numpy(rng.uniform(0, 0.5, (_COUNT, 1, 1, 1)).astype(np.float32))
    x = torch.lerp(to_tensor(first[0]), to_tensor(second[0]), share)
    soft = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, soft, torch.from_numpy(rng.random((_COUNT, 1, 1, 1)).astype(np.float32)))
    logits = torch.cat([recogniser()(part)["animal"] for part in torch.split(x, 100)])
    return logits, torch.from_numpy(first[1])


def _one_critter(start: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pictures: list[NDArray[np.uint8]] = []
    animals: list[int] = []
    seed = start
    while len(pictures) < _COUNT:
        scene = Scene.sample(seed, held_out=False)
        if len(scene.critters) == 1:
            pictures.append(np.asarray(scene.draw(64, seed)))
            animals.append(HEADS["animal"].index(str(scene.critters[0].animal)))
        seed += 1
    return np.stack(pictures), np.array(animals)


def ece(confidence: NDArray[np.float32], right: NDArray[np.bool_], bins: int = 10) -> float:
    """Mean gap between confidence and share of hits, over equal bins of confidence."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        np.abs(confidence[which == i].mean() - right[which == i].mean()) * (which == i).mean()
        for i in range(bins)
        if (which == i).any()
    ]
    return float(sum(gaps))
