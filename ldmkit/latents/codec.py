"""``encode_image`` and ``decode_latents``: the pipeline's autoencoder, at the network's scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ldmkit.check import short
from ldmkit.loading.device import at_work
from ldmkit.loading.families import autoencoder_of, denoiser_of
from ldmkit.recording.hooks import exclusive, is_mine
from ldmkit.recording.preview import decode, scale
from ldmkit.records.rgb import is_picture_like, to_rgb

__all__ = ["decode_latents", "encode_image", "listed"]

_LARGEST_SIDE = 4096  # pixels


def encode_image(pipe: Any, picture: Any) -> torch.Tensor:
    """Encodes pictures as the latents that the pipeline's network would see.

    The mean of the autoencoder's distribution is taken, so the same picture gives the same
    latents (arXiv 2112.10752, section 3.1), times its scaling factor.

    Args:
        pipe: a pipeline with an autoencoder.
        picture: a PIL picture of any mode, a path, an array (h, w, 3) of uint8 or of floats from
            0 to 1, a tensor (3, h, w) of the same, or several of one size; turned as its EXIF
            says, on white where it is transparent. Sides that the autoencoder can't halve as
            often as it does are resized down to the next that it can.

    Returns:
        (b, c, h, w) latents at the network's scale, on the pipeline's device.

    Raises:
        TypeError: no autoencoder, or not pictures.
        ValueError: no picture, pictures of different sizes, or one that is too large.
    """
    vae = _autoencoder(pipe)
    pictures = listed(picture)
    _check_pictures(pictures, least=getattr(pipe, "vae_scale_factor", 1))
    pixels = pipe.image_processor.preprocess(pictures)
    with torch.no_grad(), _alone(pipe, vae), at_work(vae) as device:
        encoded = vae.encode(pixels.to(device, vae.dtype))  # (b, 3, H, W) in -1..1
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return scale(vae, latents)


def decode_latents(pipe: Any, latents: Any) -> Image.Image | list[Image.Image]:
    """Decodes latents at the network's scale to pictures.

    Args:
        pipe: a pipeline with an autoencoder.
        latents: (c, h, w) or (b, c, h, w), a tensor or an array such as ``traj.latents[-1]``.

    Returns:
        A PIL picture; a list of them for a batch of more than one.

    Raises:
        TypeError: the pipeline has no autoencoder, or these are no numbers.
        ValueError: another shape, or numbers that aren't finite.
    """
    vae = _autoencoder(pipe)
    array = _array(latents)
    channels = vae.config.latent_channels
    if array is None or array.ndim != 4 or array.shape[1] != channels or 0 in array.shape:
        got = short(latents) if array is None else str(np.shape(latents))
        raise (TypeError if array is None else ValueError)(
            f"latents must have the shape (b, {channels}, h, w), got {got}; "
            "a step of a trajectory is traj.latents[i]."
        )
    if not np.isfinite(array).all():
        raise ValueError(
            "latents must be finite numbers, got NaN or infinity among them; there is no picture "
            "in those."
        )
    with _alone(pipe, vae):
        pictures = [Image.fromarray(pixels) for pixels in decode(vae, array)]
    return pictures[0] if len(pictures) == 1 else pictures


def _autoencoder(pipe: Any) -> Any:
    vae = autoencoder_of(pipe)
    if vae is None:
        raise TypeError(
            f"A pipeline with an autoencoder (vae) is needed, got {short(pipe)}; "
            "open one with ldmkit.load(name)."
        )
    return vae


@contextmanager
def _alone(pipe: Any, vae: Any) -> Iterator[None]:
    """Takes turns with whoever records the pipeline, which may change the autoencoder's dtype.

    One lock only, so that nobody can wait for another who waits for him; what is asked inside
    ``on_step`` holds it already.
    """
    part = denoiser_of(pipe) or vae
    with nullcontext() if is_mine(part) else exclusive(part):
        yield


def _array(latents: Any) -> NDArray[np.float32] | None:
    """(b, c, h, w) float32, or ``None`` for what is no array of numbers."""
    plain = latents.detach().float().cpu().numpy() if torch.is_tensor(latents) else latents
    if isinstance(plain, (str, bytes)):  # which numpy would read
        return None
    try:
        # In one order of memory, or the same numbers could take another kernel and round otherwise.
        array = np.ascontiguousarray(plain, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        return None
    return array[None] if array.ndim == 3 else array


def listed(picture: Any) -> list[Image.Image]:
    """One picture or several as a list, each upright, on white and RGB (`records.rgb.to_rgb`).

    Raises:
        TypeError: not pictures.
        ValueError: none, or one that can't be read.
    """
    one = is_picture_like(picture) or not isinstance(picture, Iterable)
    pictures = [to_rgb(each) for each in ([picture] if one else picture)]
    if not pictures:
        raise ValueError(f"picture must be a picture or a list of them, got {short(picture)}.")
    return pictures


def _check_pictures(pictures: list[Image.Image], least: int) -> None:
    sizes = {one.size for one in pictures}
    if len(sizes) != 1:
        raise ValueError(f"Pictures of one size are needed, got {sorted(sizes)}; resize them.")
    if min(pictures[0].size) < least:
        raise ValueError(
            f"Pictures must be at least {least} pixels a side, got {pictures[0].size}; resize them."
        )
    if max(sizes.pop()) > _LARGEST_SIDE:
        raise ValueError(
            f"Pictures must be at most {_LARGEST_SIDE} pixels a side, "
            f"got {pictures[0].size}; resize them."
        )
