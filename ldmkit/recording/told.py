"""What a run says in words: warnings, and the facts that a record keeps of its call."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ldmkit.check import say
from ldmkit.recording.hooks import Tape

__all__ = ["length_said_once", "say_what_was_hidden", "versions", "writable"]


@contextmanager
def length_said_once() -> Iterator[None]:
    """Drops the libraries' own words on a long prompt, which repeat all of it; ours were said."""

    def keep(entry: logging.LogRecord) -> bool:
        said = ("was truncated because", "Token indices sequence length is longer")
        return not any(words in entry.getMessage() for words in said)

    handlers = [
        handler
        for library in ("diffusers", "transformers")
        for handler in logging.getLogger(library).handlers
    ]
    for handler in handlers:
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)


def say_what_was_hidden(output: Any, tape: Tape) -> None:
    """A black picture has two reasons: tell them apart."""
    if tape.calls and not torch.isfinite(tape.calls[-1].output).all():
        say(
            "The latents are no longer finite (NaN or infinite), so the picture shows nothing: "
            "take a smaller guidance_scale, or dtype float32.",
            stacklevel=4,
        )
    flagged = getattr(output, "nsfw_content_detected", None)
    if flagged and any(flagged):
        say(
            f"The model's safety checker blacked out {sum(map(bool, flagged))} of "
            f"{len(flagged)} pictures; the record still holds their latents.",
            stacklevel=4,
        )


def writable(
    call: Mapping[str, Any], parameters: Mapping[str, Any], scheduler: Any
) -> dict[str, Any]:
    """The keywords that JSON can hold, with those that the run took from the signature.

    ``left_out`` names those that it can't hold.
    """
    told = {
        name: parameters[name].default
        for name in ("num_inference_steps", "guidance_scale", "strength", "eta")
        if name in parameters
    } | dict(call)
    words = {"prompt", "negative_prompt", "generator"}
    kept = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in told.items()
        if name not in words and _plain(value)
    }
    left_out = sorted(name for name in told if name not in words and name not in kept)
    more = {"left_out": left_out} if left_out else {}  # start pictures, latents and the like
    return kept | {"scheduler": type(scheduler).__name__} | more


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, np.bool_, np.number))


@functools.cache  # each look-up reads a file
def versions() -> dict[str, str]:
    """Versions of the packages that a picture depends on."""
    found = {}
    for name in ("ldmkit", "diffusers", "transformers", "torch", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a source tree that isn't installed
            continue
    return found
