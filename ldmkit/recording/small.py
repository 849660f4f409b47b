"""A small decoder beside an autoencoder: pictures of steps for a tenth of the work.

Four convolutions see the latents at their own size, two more at twice that, and the last gives
four pixels per place (sub-pixel convolution, Shi et al. 2016, arXiv 1609.05158, eq. 4). It is
distilled from the autoencoder's own decode (``python -m ldmkit.recipes.preview``), belongs to
these weights alone, and is found by them: an autoencoder that was trained on has none.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from ldmkit.loading.catalog import embedded_folder
from ldmkit.threads import on_one_thread

__all__ = ["SmallDecoder", "fingerprint", "small_decoder"]

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
    """sha256 of what decodes, in float16: the same in float32, other after any training."""
    digest = hashlib.sha256(repr(getattr(vae.config, "scaling_factor", None)).encode())
    for part in ("post_quant_conv", "decoder"):
        module = getattr(vae, part, None)
        for name, weight in sorted(module.state_dict().items()) if module is not None else ():
            digest.update(f"{part}.{name}".encode())
            digest.update(weight.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


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
    small = SmallDecoder.open(folder)
    return on_one_thread(small.to(device)) if small.autoencoder == wanted else None
