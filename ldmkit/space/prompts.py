"""Prompts that stand between prompts: what the text encoder makes of several, mixed.

Families return their prompt embeddings in many shapes (with pooled vectors, masks, ids, for
guidance and against it). So each end goes through the pipeline's own ``encode_prompt`` and
whatever differs between the ends is mixed; nothing has to know the family.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ldmkit.recording.hooks import exclusive
from ldmkit.space.paths import path

__all__ = ["Between", "mixing"]


class Between(str):
    """A place on the way through several prompts; as a string the words of the nearest.

    Attributes:
        ends: the prompts.
        t: how far, 0…1.
        method: ``"slerp"`` or ``"lerp"``.
    """

    ends: tuple[str, ...]
    t: float
    method: str

    def __new__(cls, ends: Sequence[str], t: float, method: str) -> Between:
        """Of several prompts, a place and a way."""
        whole = super().__new__(cls, ends[round(t * (len(ends) - 1))])
        whole.ends, whole.t, whole.method = tuple(ends), t, method
        return whole


@contextmanager
def mixing(pipe: Any) -> Iterator[list[torch.Tensor]]:
    """Lets a pipeline read ``Between`` while the block runs.

    Yields:
        A list that gets the prompt embeddings (tokens, d) of each place that was read.
    """
    read: list[torch.Tensor] = []
    with exclusive(pipe):  # of two that wrap at once, one would take the other's away
        own = vars(pipe).get("encode_prompt")  # the user's, if there is one
        original = pipe.encode_prompt
        known = inspect.signature(original)

        @functools.wraps(original)
        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            call = known.bind(*args, **kwargs)
            prompt = call.arguments.get("prompt")
            given = [prompt] if isinstance(prompt, str) else list(prompt or ())
            places = [place for place in given if isinstance(place, Between)]
            if not places or len(places) < len(given):
                return original(*args, **kwargs)
            told = []
            for ends in zip(*(place.ends for place in places), strict=True):
                call.arguments["prompt"] = ends[0] if isinstance(prompt, str) else list(ends)
                told.append(original(*call.args, **call.kwargs))
            mixed = tuple(_mixed(parts, places) for parts in zip(*told, strict=True))
            read.extend(mixed[0])
            return mixed

        pipe.encode_prompt = encode_prompt
        try:
            yield read
        finally:
            if own is None:
                del pipe.encode_prompt
            else:
                pipe.encode_prompt = own


def _mixed(parts: tuple[Any, ...], places: list[Between]) -> Any:
    """One output of ``encode_prompt``: row i is mixed of the ends' rows i."""
    first = parts[0]
    if isinstance(first, list):  # prompts of different lengths, one tensor each
        return [_row([part[i] for part in parts], place) for i, place in enumerate(places)]
    if first is None or all(torch.equal(first, part) for part in parts[1:]):
        return first
    if not first.is_floating_point():  # masks: what any end reads is read
        return functools.reduce(torch.maximum, parts)
    return torch.stack([_row([part[i] for part in parts], at) for i, at in enumerate(places)])


def _row(rows: list[torch.Tensor], place: Between) -> torch.Tensor:
    mixed: torch.Tensor = path(rows, place.t, method=place.method)
    return mixed
