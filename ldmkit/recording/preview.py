"""Pictures of latents: the pipeline's own autoencoder, or a linear fit that needs no network.

The fit is least squares of the autoencoder's decode on its latents: one matrix of (c + 1, 3) per
autoencoder, kept in memory. No table of factors from elsewhere is used.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldmkit.loading.device import at_work, works_on

__all__ = ["autoencoder_of", "decode", "decode_is_cheap", "linear_rgb", "scale", "unscale"]

# Decoder parameters × latent positions: about how much work a decode is. The limits are a few
# seconds at most: the embedded autoencoder everywhere, a TAESD on a GPU, no full-size one.
_CHEAP = {"cpu": 2e10, "cuda": 1e12, "mps": 3e11}
_BATCH_PIXELS = 64 * 64 * 16  # decoded at once: 16 pictures of 64×64; more fall out of the cache

_fits: weakref.WeakKeyDictionary[Any, NDArray[np.float32]] = weakref.WeakKeyDictionary()


def autoencoder_of(pipe: Any) -> Any | None:
    """The autoencoder of a latent pipeline, or ``None`` (pixel models have none)."""
    for name in ("vae", "movq"):
        vae = getattr(pipe, name, None)
        if hasattr(vae, "decode") and hasattr(vae, "config"):
            return vae
    return None


def _is_movq(vae: Any) -> bool:
    """Kandinsky's: its latents are neither scaled nor, in the pipeline, rounded to codes."""
    return getattr(vae.config, "norm_type", None) == "spatial"


def _factor(vae: Any) -> float:
    return 1.0 if _is_movq(vae) else vae.config.scaling_factor


def unscale(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the network sees them to latents as the autoencoder does."""
    mean, std = _statistics(vae, latents)
    return latents * std / _factor(vae) + mean


def scale(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the autoencoder gives them to latents as the network sees them."""
    mean, std = _statistics(vae, latents)
    return (latents - mean) * _factor(vae) / std


def _statistics(vae: Any, like: torch.Tensor) -> tuple[Any, Any]:
    """(mean, std) of latents per channel; SD3 and FLUX call a mean for all ``shift_factor``."""
    mean = getattr(vae.config, "latents_mean", None)
    std = getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return getattr(vae.config, "shift_factor", None) or 0.0, 1.0
    per_channel = torch.tensor([mean, std], dtype=like.dtype, device=like.device)
    return per_channel[0].view(1, -1, 1, 1), per_channel[1].view(1, -1, 1, 1)


def decode_is_cheap(vae: Any, positions: int) -> bool:
    """Whether decoding so many latent positions (n · b · h · w) takes a few seconds at most."""
    decoder = getattr(vae, "decoder", vae)
    parameters = sum(weight.numel() for weight in decoder.parameters())
    return bool(parameters * positions <= _CHEAP.get(works_on(vae).type, _CHEAP["cpu"]))


@torch.no_grad()
def decode(vae: Any, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Decodes latents at the network's scale, as the pipeline would its last ones.

    Args:
        vae: the pipeline's autoencoder.
        latents: (k, c, h, w) at the network's scale.

    Returns:
        (k, H, W, 3) uint8 RGB pictures.
    """
    factor = 2 ** (len(getattr(vae.config, "block_out_channels", (0,) * 4)) - 1)
    size = max(1, _BATCH_PIXELS // (latents.shape[2] * latents.shape[3] * factor**2))
    # The pipeline upcasts a float16 SDXL autoencoder while it decodes; else pictures are black.
    upcast = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if upcast:
        vae.to(torch.float32)
    try:
        with at_work(vae) as device:
            parts = [
                _decode_part(vae, latents[start : start + size], device)
                for start in range(0, len(latents), size)
            ]
    finally:
        if upcast:
            vae.to(torch.float16)
    return np.concatenate(parts)


def _decode_part(vae: Any, latents: NDArray[np.float32], device: torch.device) -> NDArray[np.uint8]:
    # a copy: records are read-only
    tensor = torch.tensor(latents, device=device, dtype=vae.dtype)
    unrounded = {"force_not_quantize": True} if _is_movq(vae) else {}
    pixels = vae.decode(unscale(vae, tensor), return_dict=False, **unrounded)[0]
    # (k, 3, H, W) in -1..1
    colours = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
    colours = np.nan_to_num(colours, nan=0.0)  # a broken run is black, and said elsewhere
    return np.asarray((colours * 255).round(), dtype=np.uint8)


def linear_rgb(vae: Any, channels: int) -> NDArray[np.float32]:
    """A linear map from latents to colours, fitted to the autoencoder's own decode.

    Args:
        vae: the pipeline's autoencoder.
        channels: c, of the latents.

    Returns:
        (c + 1, 3): colours in 0..1 are ``latents @ fit[:-1] + fit[-1]``, latents at the
        network's scale.
    """
    if vae not in _fits:
        _fits[vae] = _fit(vae, channels)
    return _fits[vae]


def _fit(vae: Any, channels: int) -> NDArray[np.float32]:
    latents = _smooth_noise(channels)
    pictures = decode(vae, latents).astype(np.float64) / 255  # (k, H, W, 3)
    count, _, height, width = latents.shape
    cells = pictures.reshape(
        count, height, pictures.shape[1] // height, width, pictures.shape[2] // width, 3
    ).mean(axis=(2, 4))  # one colour per latent
    rows = latents.transpose(0, 2, 3, 1).reshape(-1, channels)
    design = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    fit, *_ = np.linalg.lstsq(design, cells.reshape(-1, 3), rcond=None)
    return fit.astype(np.float32)


def _smooth_noise(channels: int, size: int = 8) -> NDArray[np.float32]:
    """(16, c, size, size) of unit variance, from flat colours to fine grain.

    Latents of pictures are smooth for the most part: a fit on white noise alone would learn how
    the autoencoder answers to something that it never saw.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    parts = []
    for grain in (1, 2, 4, size):
        noise = torch.randn(4, channels, grain, grain, generator=generator)
        parts.append(torch.nn.functional.interpolate(noise, size=(size, size), mode="nearest"))
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)
