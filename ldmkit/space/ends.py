"""What may stand at the ends of a walk, and what it is in each space.

A picture, a drawn scene, words, an embedding, an earlier run, a seed: each space says which of
them it takes and what it makes of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ldmkit.check import short
from ldmkit.critters import Scene
from ldmkit.records import Embedding, Trajectory
from ldmkit.records.rgb import to_rgb

__all__ = ["label_of", "picture_of", "refused", "words_of"]


def label_of(end: Any, number: int) -> str:
    """What an end is called: its words where it has some."""
    if isinstance(end, str):
        return end or "no words"
    if isinstance(end, Scene):
        return end.caption(0)
    if isinstance(end, Trajectory):
        words = end.prompt if isinstance(end.prompt, str) else end.prompt[0]
        return words or f"run {number + 1}"
    if isinstance(end, Embedding):
        return end.label or f"embedding {number + 1}"
    if isinstance(end, (int, np.integer)):
        return f"seed {end}"
    if isinstance(end, os.PathLike):
        return Path(os.fsdecode(end)).name
    if isinstance(end, Image.Image):  # of an opened file its name, without its folders
        return Path(str(getattr(end, "filename", ""))).name or f"picture {number + 1}"
    return f"latents {number + 1}"


def picture_of(end: Any, size: tuple[int, int] | None = None) -> Image.Image | None:
    """The picture that an end is, upright and RGB; ``None`` where it is none.

    Args:
        end: a picture (PIL, a ``Path``, or an array of uint8: floats are latents), a scene (drawn
            with seed 0) or a run (its final picture).
        size: (width, height) to fill, what protrudes is cut off; by default the picture's own.

    Raises:
        ValueError: a picture that is too large or can't be read.
    """
    if isinstance(end, Scene):
        end = end.draw(min(512, max(16, *size)) if size else 64)
    elif isinstance(end, Trajectory):
        end = end.image
    pixels = str(getattr(end, "dtype", "")).endswith("uint8")
    if not pixels and not isinstance(end, (Image.Image, os.PathLike)):
        return None
    upright = to_rgb(end)
    if size is None or upright.size == size:
        return upright
    return ImageOps.fit(upright, size, Image.Resampling.LANCZOS)


def words_of(end: Any) -> str | None:
    """The words that an end is: itself, a scene's caption, a run's prompt; else ``None``."""
    if isinstance(end, str):
        return end
    if isinstance(end, Scene):
        return end.caption(0)
    if isinstance(end, Trajectory):
        return end.prompt if isinstance(end.prompt, str) else end.prompt[0]
    return None


def refused(space: str, wanted: str, end: Any, number: int) -> TypeError:
    """The error for an end that a space can't take."""
    return TypeError(
        f"space={space!r} walks between {wanted}, got {type(end).__name__} {short(end)} as end "
        f"{number + 1}; give another end or another space."
    )
