"""``score``: does a picture do what its caption asks, as one number that can be averaged.

On captions of the critters the judge answers, 1 or 0, so that means are the *obedience* of the
lessons and of the model card, with exact intervals. What it saw in detail is
``ldmkit.critters.judge``'s to tell. Other captions are measured by the cosine between picture and
caption in a CLIP space (CLIPScore without its rescaling, arXiv 2104.08718, eq. 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ldmkit.check import short
from ldmkit.critters.judging import judge_many
from ldmkit.critters.language import UnknownWords
from ldmkit.critters.scene import parse

__all__ = ["Scorer", "score", "scorer_of"]


@dataclass(frozen=True)
class Scorer:
    """One way to score pictures.

    Attributes:
        measure: ``"obedience"`` or ``"CLIP cosine"``.
        of: pictures and their captions to as many numbers.
    """

    measure: str
    of: Callable[[Sequence[Image.Image], Sequence[str]], list[float]]


def score(picture: Any, caption: str, *, clip: Any = None) -> float:
    """Scores one picture against its caption.

    Args:
        picture: any PIL picture, a path, or an array as in ``ldmkit.encode_image``.
        caption: what was asked for.
        clip: what ``ldmkit.clip_space`` takes or gives: a name such as ``"critters"``, a folder,
            a pipeline, or the space itself. Without it the critters' judge answers.

    Returns:
        Without ``clip`` obedience: 1.0 where everything that the caption asks (and its style
        doesn't hide) is right, else 0.0. With it the cosine of picture and caption, −1…1.

    Raises:
        ValueError: without ``clip``, a caption that the judge doesn't understand; a picture that
            can't be read.
        TypeError: not a picture, or not a string.
    """
    return scorer_of([caption], clip).of([picture], [caption])[0]


def scorer_of(captions: Iterable[str], clip: Any = None) -> Scorer:
    """The scorer that fits all captions, checked before any picture is made.

    Raises:
        ValueError: no ``clip`` and a caption that isn't the judge's.
        TypeError: a caption isn't a string.
    """
    captions = list(captions)
    for caption in captions:
        if not isinstance(caption, str):
            raise TypeError(f"caption must be a string, got {short(caption)}; pass text.")
    captions = list(dict.fromkeys(captions))
    if clip is not None:
        return Scorer("CLIP cosine", _cosines(clip))
    for caption in captions:
        try:
            parse(caption)
        except UnknownWords as error:
            raise ValueError(
                f"The judge can't score {short(caption)}: {error}. Mend the words, or give clip= "
                '(such as clip="openai/clip-vit-base-patch32") to take the CLIP cosine.'
            ) from None
    return Scorer("obedience", _obedience)


def _obedience(pictures: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
    return [float(verdict.obeyed) for verdict in judge_many(pictures, captions)]


def _cosines(clip: Any) -> Callable[[Sequence[Image.Image], Sequence[str]], list[float]]:
    from ldmkit.space.clip import clip_space  # judging critters costs no CLIP

    space = clip_space(clip)
    texts: dict[str, Any] = {}

    def of(pictures: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        for caption in captions:
            if caption not in texts:
                texts[caption] = space.encode_text(caption)
        return [
            space.encode_image(picture).similarity(texts[caption])
            for picture, caption in zip(pictures, captions, strict=True)
        ]

    return of
