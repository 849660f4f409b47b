"""What a pipeline's safety checker hid stays hidden, in a record as in the pipeline.

A checker looks at the final picture alone. The pictures of the steps, which ldmkit draws of the
latents, would show what it blacked out: hence ``Trajectory.hidden``, and no step picture before
its verdict. The latents stay; ``unsafe_previews=True`` draws them for those who must.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ldmkit.check import say
from ldmkit.loading.families import denoiser_of

__all__ = ["WITHHELD", "checked", "has_checker", "hidden_of", "say_what_is_black"]

WITHHELD = (
    "This pipeline has a safety checker, which looks at the finished picture only: no picture is "
    "shown before its verdict (unsafe_previews=True shows the steps as they come)."
)
_NAMES = ("safety", "guard", "nsfw")


def has_checker(pipe: Any) -> bool:
    """Whether something in a pipeline looks at its pictures and may black them out.

    That is any part of its own that is there and named as such: ``safety_checker``,
    ``image_guard``, ``guardrail``...
    """
    return any(
        callable(part) and any(word in name.lower() for word in _NAMES)
        for name, part in getattr(pipe, "__dict__", {}).items()
    )


def hidden_of(pipe: Any, output: Any, batch: int) -> tuple[bool, ...]:
    """For each picture of the batch whether a checker hid it; empty where none did.

    Where a checker is there and tells of no verdict (latents were asked for, or a pipeline that
    keeps it to itself), nobody knows: all are hidden.
    """
    told = _verdicts(output)
    if not told:
        return _all(batch) if has_checker(pipe) else ()
    if any(len(flags) != batch for flags in told):
        return _all(batch) if any(flags.any() for flags in told) else ()
    hidden = tuple(bool(any(row)) for row in zip(*told, strict=True))
    return hidden if any(hidden) else ()


def _verdicts(output: Any) -> list[NDArray[np.bool_]]:
    """What a pipeline tells of its checkers: ``nsfw_content_detected``, ``watermark_detected``."""
    return [
        np.atleast_1d(np.asarray(flags, dtype=bool))
        for name, flags in getattr(output, "__dict__", {}).items()
        if ("nsfw" in name or name.endswith("_detected"))
        and isinstance(flags, (bool, Sequence, np.ndarray))
    ]


def _all(batch: int) -> tuple[bool, ...]:
    return (True,) * batch


def checked(
    pipe: Any, pictures: Sequence[Image.Image], batch: int
) -> tuple[tuple[Image.Image, ...], tuple[bool, ...]]:
    """Pictures of a run that was left before its end, after the pipeline's own checker.

    Args:
        pipe: the pipeline.
        pictures: RGB, of one size; none where nothing could be drawn.
        batch: how many there should be.

    Returns:
        (the pictures, black where the checker says so; which are hidden). Where the checker can't
        be asked there is no picture, and all are hidden.
    """
    if not has_checker(pipe):
        return tuple(pictures), ()
    flags = _verdict(pipe, pictures) if pictures else None
    if flags is None:
        say(
            "The safety checker can't look at the picture of a run that it didn't end itself, so "
            "the record holds none; let record(pipe, ...) run to its end for a picture."
        )
        return (), _all(batch)
    shown = tuple(
        Image.new("RGB", picture.size) if bad else picture
        for picture, bad in zip(pictures, flags, strict=True)
    )
    return shown, flags if any(flags) else ()


@torch.no_grad()
def _verdict(pipe: Any, pictures: Sequence[Image.Image]) -> tuple[bool, ...] | None:
    ask = getattr(pipe, "run_safety_checker", None)
    if ask is None:
        return None
    arrays = np.stack([np.asarray(picture, np.float32) / 255 for picture in pictures])
    try:  # (b, h, w, 3) in 0..1, which Stable Diffusion's and IF's take alike
        dtype = getattr(denoiser_of(pipe), "dtype", torch.float32)
        _, *told = ask(arrays, pipe._execution_device, dtype)
        columns = [np.asarray(flags, dtype=bool) for flags in told if flags is not None]
    except Exception:  # whatever a checker of another family wants: its picture isn't shown
        return None
    if not columns or any(column.shape != (len(pictures),) for column in columns):
        return None
    return tuple(bool(any(row)) for row in zip(*columns, strict=True))


def say_what_is_black(
    hidden: Sequence[bool],
    last: torch.Tensor | None,
    output: Any,
    *,
    unsafe: bool,
    images: Sequence[Image.Image] = (),
) -> None:
    """A black picture has three reasons: tell them apart, for each picture of the batch.

    Args:
        hidden: of ``hidden_of`` or ``checked``.
        last: (b, ...) what left the last step, if a step was made.
        output: the pipeline's, ``None`` where the run was stopped.
        unsafe: the steps are drawn all the same.
        images: the pictures of the run.
    """
    finite = [] if last is None else torch.isfinite(last.flatten(1)).all(1).tolist()
    broken = [i for i, whole in enumerate(finite, 1) if not whole]
    if broken:
        which = "" if len(finite) == 1 else f" of {_numbers(broken)} of {len(finite)}"
        shows = "picture shows" if len(broken) == 1 else "pictures show"
        say(
            f"The latents{which} are no longer finite (NaN or infinite), so the {shows} nothing: "
            "take a smaller guidance_scale, or dtype float32."
        )
    _say_what_overflowed(hidden, finite, images)
    if any(hidden) and (output is None or _verdicts(output)):
        steps = "" if unsafe else ", and draws none of their steps (unsafe_previews=True does)"
        say(
            f"The model's safety checker blacked out {sum(hidden)} of {len(hidden)} pictures; the "
            f"record still holds their latents{steps}."
        )
    elif any(hidden) and not unsafe:
        say(
            "The model's safety checker gave no verdict on this run, so no picture of its steps "
            "is drawn (unsafe_previews=True does); the record still holds the latents."
        )


def _say_what_overflowed(
    hidden: Sequence[bool], finite: Sequence[bool], images: Sequence[Image.Image]
) -> None:
    """Pictures of nothing but zeros, though their latents are finite and no checker hid them."""
    if len(finite) != len(images):
        return
    known = hidden or (False,) * len(images)
    black = [
        i
        for i, (picture, whole, hid) in enumerate(zip(images, finite, known, strict=True), 1)
        if whole and not hid and picture.getbbox() is None
    ]
    if black:
        which = "The picture is" if len(images) == 1 else f"Of {len(images)} {_numbers(black)}"
        verb = "" if len(images) == 1 else (" is" if len(black) == 1 else " are")
        say(
            f"{which}{verb} all black though the latents are finite, so the autoencoder most "
            "likely overflowed, as in float16: load the model with dtype float32 or bfloat16."
        )


def _numbers(which: list[int]) -> str:
    words = " and ".join(filter(None, [", ".join(map(str, which[:-1])), str(which[-1])]))
    return f"picture{'s' if len(which) > 1 else ''} {words}"
