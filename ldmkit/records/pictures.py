"""Step pictures of a trajectory, latents to colours without any network; pictures that move."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ldmkit.check import choice, number, short, whole
from ldmkit.records.noise_law import at_unit_variance, clean_of, noise_of
from ldmkit.records.record import RecordError, index_of, write_atomically
from ldmkit.records.rgb import fitted, flat

if TYPE_CHECKING:
    from ldmkit.records.trajectory import Trajectory

__all__ = [
    "LANES",
    "blank_hidden",
    "can_be_linear",
    "drawable",
    "every_nth",
    "is_crisp",
    "is_hidden",
    "is_picture",
    "lane_array",
    "lane_latents",
    "lane_pictures",
    "write_animation",
]

# A clean estimate and the prediction that implies it; the last two come before guidance.
IMPLIED_BY = {
    "denoised": "noise_pred",
    "denoised_text": "noise_pred_text",
    "denoised_uncond": "noise_pred_uncond",
}
MAX_SIDE = 8192  # pixels of a drawn step
HOLD = 6  # the last picture of a run stays this many frames long
LANES = (
    "latents",
    "denoised",
    "noise_pred",
    "noise_pred_text",
    "noise_pred_uncond",
    "denoised_text",
    "denoised_uncond",
)


def every_nth(count: int, every: int) -> list[int]:
    """Every so many of ``count`` steps, the first and the last always."""
    return sorted({*range(0, count, every), count - 1}) if count else []


def is_picture(lane: str) -> bool:
    """Whether the lane's frames show a picture (noise is drawn in colours, but is none)."""
    return not lane.startswith("noise")


def is_crisp(traj: Trajectory, lane: str) -> bool:
    """Whether the lane's frames are single latents whose edges are to be kept when enlarged.

    Decoded pictures are pictures already, and a clean estimate enlarged smoothly is closer to
    what the autoencoder draws.
    """
    return lane not in traj.previews and lane not in IMPLIED_BY


def is_hidden(traj: Trajectory, batch: int) -> bool:
    """Whether a safety checker blacked this picture of the batch out."""
    return 0 <= batch < len(traj.hidden) and traj.hidden[batch]


def blank_hidden(traj: Trajectory) -> None:
    """Takes what was hidden out of a new record's decoded step pictures."""
    for lane, array in traj.previews.items() if any(traj.hidden) else ():
        frames = array.copy()
        for batch in np.flatnonzero(traj.hidden):
            frames[:, batch] = _tile((array.shape[3], array.shape[2]))
        frames.flags.writeable = False
        traj.previews[lane] = frames  # type: ignore[index]


def _tile(size: tuple[int, int]) -> NDArray[np.uint8]:
    """What stands in the place of a picture that was hidden, (H, W, 3)."""
    tile = Image.new("RGB", size, (128, 128, 128))
    words = "hidden by\nthe safety\nchecker"
    font = ImageFont.load_default(max(6, min(size) // 8))
    middle = (size[0] / 2, size[1] / 2)
    ImageDraw.Draw(tile).multiline_text(
        middle, words, fill="white", font=font, anchor="mm", align="center"
    )
    return np.asarray(tile)


def drawable(traj: Trajectory, lane: str) -> bool:
    """Whether ``lane_array`` can draw this lane of this record."""
    return lane in traj.previews or can_be_linear(traj, lane)


def can_be_linear(traj: Trajectory, lane: str) -> bool:
    """Whether its latents are there, and what turns them into colours."""
    if lane not in LANES or not _follows(traj, lane):
        return False
    latents = traj.latents if traj.latents is not None else getattr(traj, lane)
    return traj.rgb is not None or latents.shape[2] in (1, 3)


def _follows(traj: Trajectory, lane: str) -> bool:
    """Whether ``lane_latents`` gives this lane; asked often, so nothing is computed."""
    if getattr(traj, lane, None) is not None:
        return True
    other = "denoised" if lane == "noise_pred" else IMPLIED_BY.get(lane, "")
    return traj.latents is not None and getattr(traj, other, None) is not None


def lane_latents(traj: Trajectory, lane: str) -> NDArray[np.float32] | None:
    """One array per step, (n, b, c, h, w); what was not kept follows from the law, if it can.

    latents = alpha · denoised + sigma · noise_pred, so that any two of the three give the third.
    The clean estimates before guidance are never kept: they follow from their noise.
    """
    array: NDArray[np.float32] | None = getattr(traj, lane, None)
    if array is not None:
        return array[: len(traj.timesteps)]  # the last output of `latents` enters no step
    alphas, sigmas = (a[:, None, None, None, None] for a in (traj.alphas, traj.sigmas))
    latents = None if traj.latents is None else traj.latents[:-1]
    if latents is None:
        return None
    # Where alpha or sigma is zero nothing follows: NaN, drawn black.
    if lane == "noise_pred" and traj.denoised is not None:
        return np.asarray(noise_of(latents, traj.denoised, alphas, sigmas), np.float32)
    noise = getattr(traj, IMPLIED_BY.get(lane, ""), None)
    return (
        None if noise is None else np.asarray(clean_of(latents, noise, alphas, sigmas), np.float32)
    )


def lane_array(traj: Trajectory, lane: str, batch: int = 0) -> NDArray[np.uint8]:
    """Frames of one lane at their own resolution.

    Returns:
        (n, H, W, 3) uint8: decoded step pictures where the record has them (steps between them,
        with ``preview_every``, by the linear map at their size), else one pixel per latent; a grey
        tile for a picture that a safety checker hid.

    Raises:
        RecordError: as ``Trajectory.pictures``.
    """
    _check(traj, lane, batch)
    if is_hidden(traj, batch):
        side = fitted(_picture_size(traj), 256)
        return np.broadcast_to(_tile(side), (len(traj.timesteps), side[1], side[0], 3))
    if lane not in traj.previews:
        return _linear(traj, lane, batch)
    decoded = traj.previews[lane][:, batch]
    if len(decoded) == len(traj.timesteps):
        return decoded
    frames, size = _linear(traj, lane, batch), decoded.shape[2:0:-1]
    large = [Image.fromarray(one).resize(size, Image.Resampling.BICUBIC) for one in frames]
    whole = np.stack([np.asarray(one) for one in large])
    whole[every_nth(len(whole), traj.preview_every)] = decoded
    return whole


def _linear(traj: Trajectory, lane: str, batch: int) -> NDArray[np.uint8]:
    """(n, h, w, 3): one pixel per latent, by the linear map."""
    whole = lane_latents(traj, lane)
    assert whole is not None  # whoever asks has seen to it
    frames = whole[:, batch]  # (n, c, h, w)
    if lane == "latents":
        alphas, sigmas = (a[:, None, None, None] for a in (traj.alphas, traj.sigmas))
        frames = at_unit_variance(frames, alphas, sigmas).astype(np.float32)
    colours = _colours(frames, traj.rgb, constant=is_picture(lane))
    return (np.nan_to_num(colours, nan=0.0).clip(0, 1) * 255).round().astype(np.uint8)


def _check(traj: Trajectory, lane: str, batch: int) -> None:
    try:
        choice("lane", lane, LANES)
    except ValueError as error:
        raise RecordError(str(error)) from None
    index_of("batch", batch, traj.batch_size)
    known = [name for name in LANES if drawable(traj, name)]
    if lane in known:
        return
    if not _follows(traj, lane):
        keep = f"keep=(..., {lane!r})" if hasattr(traj, lane) else 'keep="all" and guidance on'
        raise RecordError(
            f"This trajectory did not keep {lane!r} (it can draw: {', '.join(known) or 'none'}); "
            f"record again with {keep}."
        )
    raise RecordError(
        f"Nothing says how {lane!r} looks: rgb is None and there are no decoded step pictures; "
        'record again with preview="vae" or preview="linear".'
    )


def _colours(
    frames: NDArray[np.float32], rgb: NDArray[np.float32] | None, *, constant: bool
) -> NDArray[np.float32]:
    """(n, c, h, w) latents to (n, h, w, 3) colours; noise stands around grey, not the constant."""
    if rgb is None:  # a model of pixels in -1..1, grey or RGB
        centred = np.repeat(frames, 3, axis=1) if frames.shape[1] == 1 else frames
        return np.asarray(centred.transpose(0, 2, 3, 1) / 2 + 0.5, dtype=np.float32)
    matrix, offset = rgb[:-1], rgb[-1]
    if not constant:
        # ε has variance 1 in every channel, so the spread of its colours is known beforehand:
        # set to 0.2 for every autoencoder, or some would show an even grey.
        spread = np.sqrt((matrix.astype(np.float64) ** 2).sum() / 3)
        matrix, offset = matrix * np.float32(0.2 / (spread or 1.0)), np.full_like(offset, 0.5)
    with np.errstate(over="ignore", invalid="ignore"):  # NaN latents are shown black, not hidden
        return np.asarray(np.einsum("nchw,cd->nhwd", frames, matrix) + offset, np.float32)


def lane_pictures(
    traj: Trajectory, lane: str, batch: int, *, size: tuple[int, int] | None
) -> list[Image.Image]:
    """Frames of one lane as pictures of one size; see ``Trajectory.pictures``."""
    frames = lane_array(traj, lane, batch)
    size = _picture_size(traj) if size is None else _checked_size(size)
    how = Image.Resampling.NEAREST if is_crisp(traj, lane) else Image.Resampling.BICUBIC
    pictures = [Image.fromarray(frame).resize(size, how) for frame in frames]
    for picture in pictures:
        hidden = is_hidden(traj, batch)
        picture.info.update(lane=lane, is_picture=is_picture(lane) and not hidden)
        if not is_picture(lane):
            _dashed_frame(picture)
    return pictures


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    try:
        width, height = (whole("size", side, 1, MAX_SIDE) for side in size)
    except (TypeError, ValueError):
        raise RecordError(
            f"size must be (width, height), each 1 to {MAX_SIDE:,} pixels, got {short(size)}."
        ) from None
    return width, height


def _picture_size(traj: Trajectory) -> tuple[int, int]:
    if traj.images:
        return traj.images[0].size
    for previews in traj.previews.values():
        return previews.shape[3], previews.shape[2]
    kept = next(array for lane in LANES if (array := lane_latents(traj, lane)) is not None)
    return kept.shape[4] * 8, kept.shape[3] * 8  # most autoencoders shrink eightfold


def _dashed_frame(picture: Image.Image) -> None:
    """Draws a dashed frame in place: the mark of a frame that is not a picture."""
    wide = max(1, min(picture.size) // 64)
    across = np.arange(picture.width) // (4 * wide) % 2 * 255
    down = np.arange(picture.height) // (4 * wide) % 2 * 255
    row = Image.fromarray(np.tile(across.astype(np.uint8), (wide, 1))).convert("RGB")
    column = Image.fromarray(np.tile(down.astype(np.uint8)[:, None], (1, wide))).convert("RGB")
    for at in ((0, 0), (0, picture.height - wide)):
        picture.paste(row, at)
    for at in ((0, 0), (picture.width - wide, 0)):
        picture.paste(column, at)


# --- pictures that move --------------------------------------------------------------------------


def animation(
    traj: Trajectory,
    path: str | PathLike[str],
    kind: str,
    lane: str,
    batch: int,
    *,
    duration: float,
    size: int,
) -> Path:
    """One lane as a file that moves; see ``Trajectory.to_gif``."""
    check_animation(duration, size)
    _check(traj, lane, batch)
    whole = _picture_size(traj)
    frames = lane_pictures(traj, lane, batch, size=fitted(whole, size))
    ends = is_picture(lane) and batch < len(traj.images)
    last = [traj.images[batch]] if ends else []
    return write_animation(path, frames + last, kind, duration=duration, size=size, hold=True)


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
