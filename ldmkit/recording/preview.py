"""Pictures of latents: by the pipeline's autoencoder, by a small decoder, or by a linear fit.

The fit is least squares of the autoencoder's decode on its latents: one matrix of (c + 1, 3) per
autoencoder, kept in memory by a hash of its weights. No table of factors from elsewhere is used.
"""

from __future__ import annotations

import copy
import hashlib
import json
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from ldmkit.loading.catalog import embedded_folder
from ldmkit.loading.device import at_work, works_on
from ldmkit.recording.hooks import exclusive
from ldmkit.threads import on_one_thread

__all__ = [
    "SmallDecoder",
    "decode",
    "decode_is_cheap",
    "decode_small",
    "fingerprint",
    "linear_picture",
    "linear_rgb",
    "scale",
    "small_decoder",
    "unscale",
]

# Decoder parameters × latent positions: about how much work a decode is. The limits are a few
# seconds at most: the embedded autoencoder everywhere, a TAESD on a GPU, no full-size one.
_CHEAP = {"cpu": 2e10, "cuda": 1e12, "mps": 3e11}
_BATCH_PIXELS = 64 * 64 * 16  # decoded at once: 16 pictures of 64×64; more fall out of the cache

_fits: dict[str, NDArray[np.float32]] = {}  # by a hash of the weights
_stamped: weakref.WeakKeyDictionary[Any, tuple[Any, NDArray[np.float32]]] = (
    weakref.WeakKeyDictionary()
)


def _is_movq(vae: Any) -> bool:
    """Kandinsky's: its latents are neither scaled nor, in the pipeline, rounded to codes."""
    return getattr(vae.config, "norm_type", None) == "spatial"


def _is_paella(vae: Any) -> bool:
    """Wuerstchen's and Cascade's: its pictures are in 0..1, its factor is the other way round."""
    return getattr(vae.config, "up_down_scale_factor", None) is not None


def _is_of_films(vae: Any) -> bool:
    """Whether it decodes (b, c, frames, h, w), as Wan's and Qwen-Image's do."""
    return any(weight.ndim == 5 for weight in getattr(vae, "decoder", vae).parameters())


def _factor(vae: Any) -> float:
    if _is_movq(vae):
        return 1.0
    if _is_paella(vae):
        return 1.0 / float(vae.config.scale_factor)
    return float(getattr(vae.config, "scaling_factor", None) or 1.0)


def unscale(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the network sees them to latents as the autoencoder does."""
    if (patch := _patch(vae)) > 1:
        mean, std = _of_batches(vae, latents)
        patched = F.pixel_unshuffle(latents, patch)
        return F.pixel_shuffle(patched * std + mean, patch)
    mean, std = _statistics(vae, latents)
    return latents * std / _factor(vae) + mean


def scale(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the autoencoder gives them to latents as the network sees them."""
    if (patch := _patch(vae)) > 1:
        mean, std = _of_batches(vae, latents)
        patched = F.pixel_unshuffle(latents, patch)
        return F.pixel_shuffle((patched - mean) / std, patch)
    mean, std = _statistics(vae, latents)
    return (latents - mean) * _factor(vae) / std


def _patch(vae: Any) -> int:
    """Side of the squares of latents that FLUX.2's autoencoder normalises as channels; or 1."""
    known = getattr(getattr(vae, "bn", None), "running_mean", None)
    return 1 if known is None else round((len(known) / vae.config.latent_channels) ** 0.5)


def _of_batches(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, std) per channel of such squares, as the autoencoder's batch norm counted them."""
    std = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
    return vae.bn.running_mean.view(1, -1, 1, 1).to(like), std.view(1, -1, 1, 1).to(like)


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
    unrounded = {"force_not_quantize": True} if _is_movq(vae) else {}
    of_films, from_0_to_1 = _is_of_films(vae), _is_paella(vae)
    with at_work(vae) as device, _precise(vae, device) as precise:

        def pixels(tensor: torch.Tensor) -> torch.Tensor:
            tensor = unscale(vae, tensor.to(precise.dtype))
            tensor = tensor.unsqueeze(2) if of_films else tensor
            made = torch.as_tensor(precise.decode(tensor, return_dict=False, **unrounded)[0])
            made = made[:, :, 0] if of_films else made
            return made * 2 - 1 if from_0_to_1 else made

        return _in_batches(pixels, latents, device, factor)


def _in_batches(
    decoder: Callable[[torch.Tensor], torch.Tensor],
    latents: NDArray[np.float32],
    device: torch.device,
    factor: int,
) -> NDArray[np.uint8]:
    """(k, c, h, w) to (k, H, W, 3) uint8, by a decoder to -1…1, a few at once."""
    size = max(1, _BATCH_PIXELS // (latents.shape[2] * latents.shape[3] * factor**2))
    parts = []
    for start in range(0, len(latents), size):
        # a copy: records are read-only
        tensor = torch.tensor(latents[start : start + size], device=device)
        colours = (decoder(tensor) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        colours = np.nan_to_num(colours, nan=0.0)  # a broken run is black, and said elsewhere
        parts.append((colours * 255).round().astype(np.uint8))
    return np.concatenate(parts)


@contextmanager
def _precise(vae: Any, device: torch.device) -> Iterator[Any]:
    """An autoencoder that decodes in float32 where float16 gives black pictures (SDXL's).

    The pipeline turns its own to float32 and back. Here it is a copy, or whoever decodes beside
    this would find it changed.
    """
    if vae.dtype != torch.float16 or not getattr(vae.config, "force_upcast", False):
        yield vae
    elif vae.device.type != "meta":
        # Neither the half that encodes nor what accelerate hung on it, which holds the pipeline.
        left_out = {"encoder": nn.Identity(), "_hf_hook": None}
        known = {
            id(getattr(vae, name)): for_it
            for name, for_it in left_out.items()
            if hasattr(vae, name)
        }
        yield copy.deepcopy(vae, known).to(device, torch.float32)
    else:  # weights come layer by layer, in the precision that the module itself names
        with exclusive(vae):
            vae.to(torch.float32)
            try:
                yield vae
            finally:
                vae.to(torch.float16)


# --- the linear fit -------------------------------------------------------------------------------


def linear_rgb(vae: Any, channels: int) -> NDArray[np.float32]:
    """A linear map from latents to colours, fitted to the autoencoder's own decode.

    Args:
        vae: the pipeline's autoencoder.
        channels: c, of the latents.

    Returns:
        (c + 1, 3): colours in 0..1 are ``latents @ fit[:-1] + fit[-1]``, latents at the
        network's scale.
    """
    stamp = _stamp_of(vae)
    if vae not in _stamped or _stamped[vae][0] != stamp:
        whose = _whose(vae)
        fit = _fits.get(whose) if whose else None
        fit = _fit(vae, channels) if fit is None else fit
        _stamped[vae] = (stamp, fit)
        if whose:
            _fits[whose] = fit
    return _stamped[vae][1]


def linear_picture(vae: Any, latents: NDArray[np.floating[Any]]) -> NDArray[np.uint8] | None:
    """A picture of one pixel per latent, by the linear fit; no network runs.

    Args:
        vae: the pipeline's autoencoder; ``None`` for a model of pixels in -1..1.
        latents: (c, h, w).

    Returns:
        (h, w, 3), or ``None`` where they are packed in a way that nobody described.
    """
    frame = np.moveaxis(latents, 0, -1)  # (h, w, c)
    if vae is None:
        colours = frame / 2 + 0.5
    elif frame.shape[2] == getattr(vae.config, "latent_channels", frame.shape[2]):
        fit = linear_rgb(vae, frame.shape[2])
        colours = frame @ fit[:-1] + fit[-1]
    else:
        return None
    if colours.shape[2] != 3:
        colours = colours[:, :, :1].repeat(3, axis=2)
    return (np.nan_to_num(colours).clip(0, 1) * 255).round().astype(np.uint8)


def _stamp_of(vae: Any) -> tuple[Any, ...]:
    """Changes whenever the weights do, and costs nothing to read."""
    weights = (*vae.parameters(), *vae.buffers())
    return tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)


def _whose(vae: Any) -> str:
    """The hash of all that decodes; nothing where weights come and go layer by layer."""
    weights = vae.state_dict()
    if not weights or any(weight.is_meta for weight in weights.values()):
        return ""
    names = [name for name in sorted(weights) if not name.startswith(("encoder.", "quant_conv."))]
    head = repr((type(vae).__name__, vae.config))
    return _sha256(head, ((name, weights[name]) for name in names))


def _sha256(head: str, weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Of words and weights, in float16: the same in float32, other after any training."""
    digest = hashlib.sha256(head.encode())
    for name, weight in weights:
        digest.update(name.encode())
        digest.update(weight.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


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
        parts.append(F.interpolate(noise, size=(size, size), mode="nearest"))
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


# --- the small decoder ----------------------------------------------------------------------------
#
# Four convolutions see the latents at their own size, two more at twice that, and the last gives
# four pixels per place (sub-pixel convolution, Shi et al. 2016, arXiv 1609.05158, eq. 4). It is
# distilled from the autoencoder's own decode (``python -m ldmkit.recipes.preview``), belongs to
# these weights alone, and is found by them: an autoencoder that was trained on has none.

_LARGEST = 5_000_000  # weights of a decoder that is looked up: hashing more would cost a picture


class SmallDecoder(nn.Module):
    """Latents to pictures four times their size.

    Args:
        channels: c, of the latents.
        width: channels at the latents' own size.
        blocks: pairs of convolutions at that size.
        fine: channels at twice that size.
    """

    def __init__(self, channels: int = 4, width: int = 64, blocks: int = 2, fine: int = 24) -> None:
        super().__init__()
        self.autoencoder = ""
        self.config = {"channels": channels, "width": width, "blocks": blocks, "fine": fine}
        self.enter = _conv(channels, width)
        self.pairs = nn.ModuleList(
            nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width))
            for _ in range(blocks)
        )
        self.widen = _conv(width, 4 * fine)
        self.polish = _conv(fine, fine)
        self.leave = _conv(fine, 4 * 3)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(k, c, h, w) at the network's scale -> (k, 3, 4h, 4w), about -1…1."""
        # In this order of memory a CPU convolves a fifth faster.
        x = latents.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.enter(x))  # (k, width, h, w)
        for pair in self.pairs:
            x = F.relu(x + pair(x))
        x = F.relu(F.pixel_shuffle(self.widen(x), 2))  # (k, fine, 2h, 2w)
        x = F.relu(x + self.polish(x))
        return F.pixel_shuffle(self.leave(x), 2)

    @classmethod
    def open(cls, folder: Path) -> SmallDecoder:
        """Reads what ``save`` wrote; ``autoencoder`` is the fingerprint of whose it is."""
        config = json.loads((folder / "config.json").read_text())
        autoencoder = config.pop("autoencoder")
        small = cls(**config)
        small.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
        small.autoencoder = autoencoder
        return small.eval()

    def save(self, folder: Path, vae: Any) -> None:
        """Writes float16 weights and a configuration that names the autoencoder's weights."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: w.half().contiguous() for name, w in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o644)
        config = self.config | {"autoencoder": fingerprint(vae)}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _conv(enters: int, leaves: int) -> nn.Conv2d:
    return nn.Conv2d(enters, leaves, 3, padding=1)


def fingerprint(vae: Any) -> str:
    """By what a small decoder finds its autoencoder: the sha256 of what decodes."""
    weights = (
        (f"{part}.{name}", weight)
        for part in ("post_quant_conv", "decoder")
        if getattr(vae, part, None) is not None
        for name, weight in sorted(getattr(vae, part).state_dict().items())
    )
    return _sha256(repr(getattr(vae.config, "scaling_factor", None)), weights)


def small_decoder(vae: Any, device: torch.device) -> SmallDecoder | None:
    """The small decoder that was made for exactly these weights, on a device; or ``None``."""
    decoder = getattr(vae, "decoder", None)
    if decoder is None or sum(w.numel() for w in decoder.parameters()) > _LARGEST:
        return None
    if any(w.device.type == "meta" for w in decoder.parameters()):  # comes and goes layer by layer
        return None
    try:
        folder = embedded_folder("critters") / "preview"
    except FileNotFoundError:
        return None
    return _opened(folder, fingerprint(vae), device) if folder.is_dir() else None


@lru_cache(maxsize=8)
def _opened(folder: Path, wanted: str, device: torch.device) -> SmallDecoder | None:
    with torch.inference_mode(False):  # it is kept
        small = SmallDecoder.open(folder)
    return on_one_thread(small.to(device)) if small.autoencoder == wanted else None


@torch.no_grad()
def decode_small(small: SmallDecoder, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Decodes latents with a small decoder; as ``decode``."""
    return _in_batches(small, latents, next(small.parameters()).device, factor=4)
