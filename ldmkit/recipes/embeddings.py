"""What prior and decoder learn from: the drawings' embeddings by the frozen CLIP.

An embedding is, everywhere, what ``CLIPVisionModelWithProjection`` calls ``image_embeds``: the
projection **as it comes, not normalised** (norms of 12.2 ± 0.5 here), because that is what
diffusers' unCLIP pipelines feed. `fit` shifts and scales each dimension to mean 0 and deviation 1
over the training drawings; the prior (``clip_mean``, ``clip_std``) and the pipeline's normaliser
hold the same numbers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from numpy.typing import NDArray
from transformers import CLIPModel

import ldmkit.critters
from ldmkit.recipes.clip import pixels
from ldmkit.recipes.common import TUNING_SEED, drawn, save_array

WEIGHTS = Path(ldmkit.critters.__file__).parent / "weights"
CLIP, VAE, UNET = (
    str(WEIGHTS / name) for name in ("critters-clip", "critters/vae", "critters/unet")
)
WIDTH = 128  # of an embedding
_MOST = 10_000_000  # training drawings


def training_seeds(count: int) -> NDArray[np.int64]:
    """The seeds of the first training drawings.

    They are 0 … 399,999 and, as those from there on are for tuning and evaluation, then
    -9,600,000 … -1.

    Args:
        count: how many, up to ten million.

    Raises:
        ValueError: more than that.
    """
    if count > _MOST:
        raise ValueError(f"there are {_MOST} training drawings, got {count}: ask for fewer")
    numbers = np.arange(count)
    return np.where(numbers < TUNING_SEED, numbers, numbers - _MOST)


class Pictures:
    """The frozen picture half of CLIP: drawings to embeddings.

    Args:
        clip: its folder.
        device: to work on; embeddings come back to the CPU.
    """

    def __init__(self, clip: str = CLIP, device: str = "cpu") -> None:
        self.model = CLIPModel.from_pretrained(clip, dtype=torch.float32).to(device).eval()

    @torch.no_grad()
    def embed(self, pictures: np.ndarray) -> torch.Tensor:
        """(n, 64, 64, 3) uint8 -> (n, 128) float32, projected and not normalised."""
        out = []
        for i in range(0, len(pictures), 100):
            x = pixels(pictures[i : i + 100]).to(self.model.device)
            out.append(self.model.get_image_features(pixel_values=x).pooler_output.cpu())
        return torch.cat(out)

    def training(self, count: int, cache: Path) -> torch.Tensor:
        """The embeddings of the training drawings, encoded once per CLIP.

        The drawings themselves are not kept: many more can be read than a U-Net is shown.

        Args:
            count: of drawings, a multiple of 500; their seeds are `training_seeds`.
            cache: folder for the ``.npy``.

        Raises:
            ValueError: more than there are.
        """
        seeds = training_seeds(count)
        weights = b"".join(
            w.cpu().numpy().tobytes() for w in self.model.vision_model.state_dict().values()
        )
        path = cache / f"embeddings-{hashlib.sha256(weights).hexdigest()[:12]}-{count}.npy"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            parts = [part for part in (seeds[:TUNING_SEED], seeds[TUNING_SEED:]) if len(part)]
            chunks = [self.embed(c) for part in parts for c in drawn(len(part), int(part[0]))]
            save_array(path, torch.cat(chunks).numpy())
        return torch.from_numpy(np.load(path))


def fit(embeddings: torch.Tensor) -> StableUnCLIPImageNormalizer:
    """The normaliser that gives each dimension mean 0 and deviation 1.

    Args:
        embeddings: (n, d), not normalised.
    """
    normalizer = StableUnCLIPImageNormalizer(embeddings.shape[1]).requires_grad_(False)
    normalizer.mean.copy_(embeddings.mean(0, keepdim=True))
    normalizer.std.copy_(embeddings.std(0, keepdim=True))
    return normalizer


def build_noising() -> DDPMScheduler:
    """Noise on embeddings: ``noise_level`` 0 … 999 of a cosine schedule, as in Stable unCLIP."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
