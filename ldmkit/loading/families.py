"""What a family of pipelines does in its own way: the one place that knows families.

A row says only what differs from the usual, and a family without a row is taken as usual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """A family of pipelines.

    Attributes:
        classes: beginnings of the class names of its pipelines.
        words_first: in one call of the network the half with the words comes first in the batch.
            (Of two calls in one step the first is taken for the one with the words.)
        doubled_by: keyword of the call that, above 1, makes the pipeline keep each picture's
            latents twice, the second time without words.
        text_tokens: whose tokens the network's text is made of, in this order: names of
            tokenizers, and numbers of tokens that are of no word.
        text_last: in joint attention the words stand behind the picture.
    """

    classes: tuple[str, ...] = ()
    words_first: bool = False
    doubled_by: str = ""
    text_tokens: tuple[str | int, ...] = ("tokenizer",)
    text_last: bool = False


FAMILIES = (
    Family(classes=("DiT",), words_first=True, doubled_by="guidance_scale"),
    Family(classes=("StableDiffusion3",), text_tokens=("tokenizer", "tokenizer_3"), text_last=True),
    Family(classes=("Flux",), text_tokens=("tokenizer_2",)),
    Family(classes=("HunyuanDiT",), text_tokens=("tokenizer", "tokenizer_2")),
    Family(classes=("UnCLIP",), text_tokens=(4, "tokenizer")),
)

_USUAL = Family()


def family_of(pipe: Any) -> Family:
    """The family of a pipeline."""
    name = type(pipe).__name__
    return next((row for row in FAMILIES if name.startswith(row.classes)), _USUAL)
