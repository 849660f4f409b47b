"""What a run has to show: its pictures, its last clean estimate, pictures of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.loading.device import works_on
from ldmkit.recording import preview as previews
from ldmkit.recording.arrays import step_of
from ldmkit.recording.hooks import Tape
from ldmkit.recording.small import small_decoder

__all__ = ["images_of", "last_estimate", "step_pictures"]

# Pixels in -1..1 are their own colours: what a model without an autoencoder diffuses.
_PIXEL_RGB = np.concatenate([np.eye(3), np.ones((1, 3))]).astype(np.float32) / 2


def images_of(output: Any) -> tuple[Image.Image, ...]:
    """The final pictures of a pipeline's output; none where it gave latents or sound."""
    images = getattr(output, "images", ())
    return tuple(image for image in images if isinstance(image, Image.Image))


def last_estimate(vae: Any, tape: Tape, scheduler: Any) -> tuple[Image.Image, ...]:
    """The last clean estimate as pictures: what a stopped run has to show."""
    last = step_of(0, tape.calls[-1], scheduler, ("denoised",)).denoised
    if last is None or not np.isfinite(last).all():
        return ()
    if vae is None:
        return _pixels(last) if last.shape[1] == 3 else ()
    return tuple(Image.fromarray(picture) for picture in previews.decode(vae, last))


def _pixels(x0: NDArray[np.float32]) -> tuple[Image.Image, ...]:
    """Pictures of what a pixel model diffuses, (b, 3, h, w) in -1..1."""
    colours = ((x0 / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)
    return tuple(Image.fromarray(picture) for picture in colours.transpose(0, 2, 3, 1))


def step_pictures(vae: Any, arrays: Mapping[str, Any], preview: str) -> dict[str, Any]:
    """``rgb`` and ``previews`` of a record."""
    kept = {name: arrays[name] for name in ("latents", "denoised") if arrays[name] is not None}
    if preview == "none" or not kept:
        return {}
    shape = next(iter(kept.values())).shape
    if vae is None:
        return {"rgb": _PIXEL_RGB} if shape[2] == 3 else {}
    if shape[2] != getattr(vae.config, "latent_channels", shape[2]):
        return {}  # packed in a way that nobody described
    rgb = previews.linear_rgb(vae, shape[2])
    lanes = {lane: _at_unit_scale(arrays, lane) for lane in kept}
    unguided = _unguided_estimates(arrays)
    small = small_decoder(vae, works_on(vae)) if preview == "auto" else None
    if small is not None:
        # Noise is no picture that it was taught: the linear map draws it, a cell for a latent.
        lanes = {lane: lanes[lane] for lane in lanes if lane == "denoised"} | unguided
        return {"rgb": rgb, "previews": _decoded(partial(previews.decode_small, small), lanes)}
    if preview == "linear" or (preview == "auto" and not _cheap(vae, lanes)):
        return {"rgb": rgb}
    if preview == "vae" or _cheap(vae, lanes | unguided):
        lanes |= unguided
    return {"rgb": rgb, "previews": _decoded(partial(previews.decode, vae), lanes)}


def _cheap(vae: Any, lanes: Mapping[str, NDArray[np.float32]]) -> bool:
    return previews.decode_is_cheap(vae, sum(frames[:, :, 0].size for frames in lanes.values()))


def _at_unit_scale(arrays: Mapping[str, Any], lane: str) -> NDArray[np.float32]:
    frames = arrays[lane][: len(arrays["timesteps"])]  # (n, b, c, h, w)
    if lane == "latents":
        # Euler's latents grow to sigma; the autoencoder knows those of unit variance.
        c = np.sqrt(arrays["alphas"] ** 2 + arrays["sigmas"] ** 2)
        frames = frames / np.where(c > 0, c, 1)[:, None, None, None, None]
    return np.asarray(frames, dtype=np.float32)


def _unguided_estimates(arrays: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The clean estimates before guidance, x0 = (latents - sigma · noise) / alpha.

    They are drawn only beside the guided one, so a record that has no two sides has none.
    """
    sides = {"denoised_uncond": "noise_pred_uncond", "denoised_text": "noise_pred_text"}
    if any(arrays[name] is None for name in ("latents", *sides.values())):
        return {}
    alphas, sigmas = (arrays[name][:, None, None, None, None] for name in ("alphas", "sigmas"))
    with np.errstate(all="ignore"):  # alpha 0 at pure noise: no estimate follows
        return {
            lane: ((arrays["latents"][:-1] - sigmas * arrays[noise]) / alphas).astype(np.float32)
            for lane, noise in sides.items()
        }


def _decoded(
    decode: Callable[[NDArray[np.float32]], NDArray[np.uint8]],
    lanes: Mapping[str, NDArray[np.float32]],
) -> dict[str, NDArray[np.uint8]]:
    """(n, b, H, W, 3) pictures of each lane, (n, b, c, h, w)."""
    pictures = {}
    for lane, frames in lanes.items():
        flat = decode(frames.reshape(-1, *frames.shape[2:]))
        pictures[lane] = flat.reshape(*frames.shape[:2], *flat.shape[1:])
    return pictures
