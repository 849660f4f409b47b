"""Look at a picture and say what it shows; compare that with what a caption asked for.

The judge is a small convolutional recogniser that was trained on drawings alone (see the model
card for its own error on unseen ones). It answers "none" for pictures without a critter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from ldmkit.critters import world
from ldmkit.critters.scene import Scene, parse
from ldmkit.critters.world import hidden
from ldmkit.records.rgb import to_rgb
from ldmkit.threads import on_one_thread

HEADS: dict[str, tuple[str, ...]] = {
    "number": ("none", "one", "two"),
    "place": world.PLACES,
    "background": world.BACKGROUNDS,
    "style": world.STYLES,
    "size": world.SIZES,
    "side": world.SIDES,
    "animal": world.ANIMALS,
    "colour": world.COLOURS,
    "wears": world.WEARS,
    "mood": world.MOODS,
    "animal 2": world.ANIMALS,
    "colour 2": world.COLOURS,
    "wears 2": world.WEARS,
}
"""What the judge answers: the first critter is the left one of two."""

_SIDE = 64  # pixels that the recogniser looks at
_WEIGHTS = Path(__file__).parent / "weights" / "judge"


@dataclass(frozen=True)
class Seen:
    """One attribute of a verdict.

    Attributes:
        asked: the value that the caption gave.
        seen: the value that the judge sees, or None where it sees no critter.
        confidence: the judge's probability of ``seen``, 0…1.
        obeyed: whether they agree; None where the style, size or number that the caption asked for
            hides the attribute.
    """

    asked: str
    seen: str | None
    confidence: float
    obeyed: bool | None


@dataclass(frozen=True)
class Verdict:
    """Whether a picture obeys a caption.

    Attributes:
        obeyed: everything asked (and visible) is right, and the number of critters too.
        asked: what the caption says.
        attributes: for each thing asked, in the grammar's order; names of a second critter end
            in " 2".
    """

    obeyed: bool
    asked: Scene
    attributes: Mapping[str, Seen]

    def __getitem__(self, name: str) -> Seen:
        return self.attributes[name]

    def __repr__(self) -> str:
        """One line to read in a cell: ``Verdict(not obeyed: wears crown instead of scarf)``."""
        told = ", ".join(_told(name, seen) for name, seen in self.attributes.items())
        return f"Verdict({'obeyed' if self.obeyed else 'not obeyed'}: {told})"


def _told(name: str, seen: Seen) -> str:
    if seen.obeyed is None:
        return f"{name} {seen.asked} hidden"
    if seen.obeyed:
        return f"{name} {seen.asked}"
    return f"{name} {seen.seen or 'not seen'} instead of {seen.asked}"


class Recogniser(nn.Module):
    """(b, 3, 64, 64) in -1…1 -> logits per head, {name: (b, values)}."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 160), hidden_size: int = 192) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), _Block(width)]
            before = width
        cells = (_SIDE >> len(widths)) ** 2
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(before * cells, hidden_size), nn.SiLU()
        )
        self.heads = nn.ModuleDict({n: nn.Linear(hidden_size, len(v)) for n, v in HEADS.items()})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of every head."""
        features = self.body(x)  # (b, hidden_size)
        return {name: head(features) for name, head in self.heads.items()}


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(nn.functional.silu(self.norm1(x)))
        return x + self.conv2(nn.functional.silu(self.norm2(y)))


def judge(picture: Any, caption: str) -> Verdict:
    """Compare one picture with one caption.

    Args:
        picture: any PIL picture, a path, or an array as in `ldmkit.encode_image`; it is seen
            upright, on white, at 64 × 64.
        caption: a sentence of `ldmkit.critters.words`.

    Returns:
        The verdict; a picture without critters obeys nothing.

    Raises:
        UnknownWords: the caption holds words without a meaning here.
        TypeError: not a picture.
        ValueError: more than 40 megapixels, or a file that can't be read.
    """
    return judge_many([picture], [caption])[0]


def judge_many(pictures: Sequence[Any], captions: Sequence[str]) -> list[Verdict]:
    """`judge` for many pairs, in batches.

    Raises:
        ValueError: as many pictures as captions are needed.
    """
    if len(pictures) != len(captions):
        raise ValueError(
            f"each picture needs its caption, got {len(pictures)} pictures and {len(captions)} "
            "captions: give as many of one as of the other."
        )
    asked = [parse(c) for c in captions]
    answers: list[dict[str, tuple[str, float]]] = []
    for i in range(0, len(pictures), 64):
        answers += look([*pictures[i : i + 64]])
    return [_verdict(a, seen) for a, seen in zip(asked, answers, strict=True)]


@torch.no_grad()
def look(pictures: Sequence[Any]) -> list[dict[str, tuple[str, float]]]:
    """What the judge sees, without a caption: per head the likeliest value and its probability."""
    x = torch.from_numpy(np.stack([_array(p) for p in pictures]))
    logits = recogniser()(x.permute(0, 3, 1, 2).float() / 127.5 - 1)
    found: list[dict[str, tuple[str, float]]] = [{} for _ in pictures]
    for name, values in logits.items():
        probability, index = values.softmax(-1).max(-1)
        for row, p, i in zip(found, probability.tolist(), index.tolist(), strict=True):
            row[name] = (HEADS[name][i], p)
    return found


@lru_cache(maxsize=1)
def recogniser() -> Recogniser:
    """The shipped recogniser, loaded once."""
    config = json.loads((_WEIGHTS / "config.json").read_text())
    if config["critters_version"] != world.VERSION:
        raise RuntimeError(
            f"the judge was trained on critters {config['critters_version']}, this is "
            f"{world.VERSION}: install ldmkit again so that code and weights match"
        )
    with torch.inference_mode(False):  # it is kept: a later gradient may go through it
        model = Recogniser(config["widths"], config["hidden_size"])
        weights = load_file(_WEIGHTS / "model.safetensors")
        model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=True)
    return on_one_thread(model.eval())


def _array(picture: Any) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    shown = to_rgb(picture)
    if shown.size != (_SIDE, _SIDE):
        shown = shown.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(shown)


def truth(scene: Scene) -> dict[str, str]:
    """The heads' right answers for a complete scene; what it hides or lacks is left out."""
    answers = {"number": HEADS["number"][len(scene.critters)]}
    hide = hidden(scene)
    for name in ("place", "background", "style", "size", "side"):
        value = getattr(scene, name)
        if value is not None and name not in hide:
            answers[name] = value
    for critter, suffix in zip(scene.critters, ("", " 2"), strict=False):
        for name in ("animal", "colour", "wears", "mood"):
            value = getattr(critter, name)
            if value is not None and name not in hide and name + suffix in HEADS:
                answers[name + suffix] = value
    return answers


def _verdict(asked: Scene, seen: Mapping[str, tuple[str, float]]) -> Verdict:
    number, sure = seen["number"]
    empty, asked_number = number == "none", HEADS["number"][len(asked.critters)]
    wanted = _all_asked(asked)
    if len(asked.critters) == 2:
        seen = _best_order(wanted, seen)  # "a cat and a dog" does not say who stands left
    visible = truth(asked)
    attributes: dict[str, Seen] = {}
    answer: str | None
    for name, value in wanted.items():
        answer, confidence = seen.get(name, (None, 0.0))
        answer = None if empty else answer
        obeyed = None if name not in visible else answer == value
        attributes[name] = Seen(value, answer, confidence, obeyed)
    attributes["number"] = Seen(asked_number, number, sure, number == asked_number)
    obeyed = all(a.obeyed is not False for a in attributes.values())
    return Verdict(obeyed, asked, attributes)


def _all_asked(asked: Scene) -> dict[str, str]:
    names = ("place", "background", "style", "size", "side")
    wanted = {n: getattr(asked, n) for n in names}
    for critter, suffix in zip(asked.critters, ("", " 2"), strict=False):
        wanted |= {n + suffix: getattr(critter, n) for n in ("animal", "colour", "wears", "mood")}
    return {n: v for n, v in wanted.items() if v is not None}


def _best_order(
    wanted: Mapping[str, str], seen: Mapping[str, tuple[str, float]]
) -> Mapping[str, tuple[str, float]]:
    swapped = dict(seen)
    for name in ("animal", "colour", "wears"):
        swapped[name], swapped[f"{name} 2"] = seen[f"{name} 2"], seen[name]

    def right(answers: Mapping[str, tuple[str, float]]) -> int:
        return sum(answers[n][0] == v for n, v in wanted.items() if n in answers)

    return swapped if right(swapped) > right(seen) else seen
