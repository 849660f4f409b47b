"""Pictures as one file that moves: GIF for everywhere, WebP for small and true colours."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from PIL import Image

from ldmkit.check import number, short
from ldmkit.records.record import RecordError, write_atomically
from ldmkit.records.rgb import fitted, flat

__all__ = ["check_animation", "write_animation"]

HOLD = 6  # the last picture of a run stays this many frames long


def write_animation(
    path: str | PathLike[str],
    frames: Sequence[Image.Image],
    kind: str,
    *,
    duration: float,
    size: int,
    hold: bool = False,
) -> Path:
    """Writes frames that repeat for ever.

    Args:
        path: the file to write; replaced as a whole or not at all.
        frames: pictures, at least one; brought to the size of the last.
        kind: ``"GIF"`` or ``"WEBP"``.
        duration: milliseconds per frame, 20 to 60,000 (browsers slow shorter ones down).
        size: longer side in pixels, 16 to 2,048.
        hold: whether the last frame stays longer than the others.

    Raises:
        RecordError: no frame, or a number out of its range.
        OSError: the folder is missing or not writable; no half-written file stays.
    """
    check_animation(duration, size)
    if not frames:
        raise RecordError("An animation needs at least one picture, got none; record some steps.")
    box, how = fitted(frames[-1].size, size), Image.Resampling.LANCZOS
    shown = [flat(frame).resize(box, how) for frame in frames]
    times = [round(duration)] * len(shown)
    if hold:
        times[-1] *= HOLD
    if kind == "GIF":
        # One palette per frame: a palette for all would have to share 256 colours between noise
        # and picture. Without dithering, flat colours stay flat and do not flicker.
        shown = [frame.quantize(256, dither=Image.Dither.NONE) for frame in shown]
        options: dict[str, object] = {"optimize": False, "disposal": 1}
    else:
        options = {"quality": 88, "method": 4}

    def write(part: Path) -> None:
        shown[0].save(
            part,
            kind,
            save_all=True,
            append_images=shown[1:],
            duration=times,
            loop=0,
            **options,
        )

    return write_atomically(path, write)


def check_animation(duration: float, size: int) -> None:
    """Refuses numbers out of their range, before anything is drawn.

    Raises:
        RecordError: which, and the range.
    """
    for name, value, least, most in (("duration", duration, 20, 60_000), ("size", size, 16, 2048)):
        try:
            number(name, value, least, most)
        except (TypeError, ValueError):
            unit = "milliseconds" if name == "duration" else "pixels"
            raise RecordError(
                f"{name} must be between {least:,} and {most:,} {unit}, got {short(value)}."
            ) from None
