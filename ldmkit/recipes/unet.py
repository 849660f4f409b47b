"""Train the U-Net of the embedded pipeline: v-prediction in latent space, led by captions.

    python -m ldmkit.recipes.unet --minutes 60 --autoencoder DIR --clip DIR

Latent diffusion (Rombach et al. 2022) with the v-parametrisation of Salimans & Ho (2022,
arXiv 2202.00512, section 4): the network predicts v = alpha · noise − sigma · x0. Some captions
are empty, so that guidance has an unconditional side (Ho & Salimans 2022, arXiv 2207.12598);
``--silence`` says with which drawings. The whole `StableDiffusionPipeline` folder is written at the
end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from ldmkit.critters.world import EVALUATION_SEED, VERSION
from ldmkit.distilling.muon import Muon
from ldmkit.recipes.clip import full_precision_config, tokens
from ldmkit.recipes.data import (
    Captioned,
    captions_of,
    drawings,
    empty_captions,
    save_array,
    to_tensor,
    unseen,
)
from ldmkit.recipes.train import UNET, Run, arguments, exported, half, target_of, train_model

BATCH = 64
_STEPS, _GUIDANCE = 32, 3.5


def build() -> UNet2DConditionModel:
    """The embedded U-Net with fresh weights: cross-attention on every level.

    At 16 × 16 the blocks attend to the caption only (twice): self-attention among 256 places took
    half of the training time there, and the 8 × 8 and 4 × 4 levels see the whole picture anyway.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=128,
        attention_head_dim=(2, 3, 4),
        norm_num_groups=16,
        only_cross_attention=(True, False, False),
    )


def build_scheduler() -> DDIMScheduler:
    """Fixed before anything was trained: with 1,024 steps every rung from 64 to 1 is exact."""
    return DDIMScheduler(
        num_train_timesteps=1024,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.02,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        steps_offset=1,
    )


class Conditions:
    """The frozen half of training: captions to embeddings, drawings to latents."""

    def __init__(self, clip: str, autoencoder: str, device: str) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(clip)
        self.text = text_encoder(clip).to(device)
        self.vae = AutoencoderKL.from_pretrained(autoencoder, dtype=torch.float32).to(device).eval()
        self.device = device

    @torch.no_grad()
    def embed(self, captions: list[str]) -> torch.Tensor:
        """Captions -> (b, 32, 128), the text encoder's last hidden states."""
        with half(self.device):
            states = self.text(tokens(self.tokenizer, captions).to(self.device)).last_hidden_state
        return states.float()

    @torch.no_grad()
    def latents(self, pictures: np.ndarray) -> torch.Tensor:
        """(n, 64, 64, 3) uint8 -> (n, 4, 16, 16) float16 means, scaled to a deviation of one."""
        out = []
        few = 25 if self.device == "cpu" else 1000  # a CPU's cache holds the maps of a few
        for i in range(0, len(pictures), few):
            with half(self.device):
                x = to_tensor(pictures[i : i + few]).to(self.device)
                z = self.vae.encode(x).latent_dist.mean
            out.append((z.float() * self.vae.config.scaling_factor).half().cpu())
        return torch.cat(out)

    def training_latents(self, count: int, cache: Path) -> torch.Tensor:
        """The latents of the training drawings, encoded once per autoencoder."""
        weights = b"".join(
            w.numpy().tobytes() for w in self.vae.encoder.cpu().state_dict().values()
        )
        path = cache / f"latents-{hashlib.sha256(weights).hexdigest()[:12]}-{count}.npy"
        self.vae.to(self.device)
        if not path.exists():
            save_array(path, self.latents(drawings(count, 0, cache)).numpy())
        return torch.from_numpy(np.load(path))


def text_encoder(clip: str) -> CLIPTextModel:
    """The text half of a CLIP folder, as the pipelines hold it."""
    text: CLIPTextModel = CLIPModel.from_pretrained(clip, dtype=torch.float32).text_model
    return text.eval()


def stratified(count: int, rng: np.random.Generator, levels: int) -> torch.Tensor:
    """One timestep from each of ``count`` equal parts of the schedule: a steadier gradient.

    In no order: which picture gets which is chance.
    """
    times = ((np.arange(count) + rng.random(count)) / count * levels).astype(np.int64)
    return torch.from_numpy(times[rng.permutation(count)])


def train(options: argparse.Namespace) -> tuple[UNet2DConditionModel, Conditions]:
    """Run the recipe; returns the U-Net with its averaged weights."""
    torch.manual_seed(options.seed)
    cache, device = options.runs / "cache", options.device
    conditions = Conditions(options.clip, options.autoencoder, device)
    latents = conditions.training_latents(options.drawings, cache)
    held = conditions.latents(unseen(cache)[:128]).float()
    held_text = conditions.embed(captions_of(np.arange(EVALUATION_SEED, EVALUATION_SEED + 128), 0))
    unet = (
        build()
        if options.start is None
        else UNet2DConditionModel.from_pretrained(options.start, dtype=torch.float32)
    )
    captioned = Captioned(
        len(latents), options.empty, options.silence, options.omit, options.mistaken
    )
    scheduler = build_scheduler()
    posterior = 0.08 * float(conditions.vae.config.scaling_factor)  # the encoder's fixed deviation

    def v_error(x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, words: torch.Tensor) -> Any:
        x, v = scheduler.add_noise(x0, noise, t), scheduler.get_velocity(x0, noise, t)
        with half(device):
            y = unet(x.to(device), t.to(device), words).sample
        return (y.float() - v.to(device)).square().mean()

    def evaluate() -> dict[str, float]:
        noise = torch.randn(held.shape, generator=torch.Generator().manual_seed(0))
        t = torch.linspace(0, len(scheduler) - 1, len(held)).long()
        return {"v_mse": float(v_error(held, noise, t, held_text))}

    def loss(run: Run, rng: np.random.Generator) -> Any:
        picked, captions = captioned.batch(options.batch, run.step, rng)
        x0 = latents[picked].float()
        x0 = x0 + posterior * torch.randn_like(x0)
        t = stratified(options.batch, rng, len(scheduler))
        return v_error(x0, torch.randn_like(x0), t, conditions.embed(captions))

    train_model(unet, "unet", options, loss, evaluate, Muon(unet.named_parameters()))
    if options.keep:
        blend(unet, options.kept or options.start, options.keep)
    return unet, conditions


@torch.no_grad()
def blend(unet: UNet2DConditionModel, folder: str, share: float) -> None:
    """Average a U-Net's weights with those of one that it descends from.

    Robust fine-tuning (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903, section 3): the average may
    do better than either where neither was trained. What it did to held-out combinations here, and
    where it did nothing, stands in the model card.

    Args:
        unet: gets the average.
        folder: of the other U-Net.
        share: of the other's weights, 0 … 1.

    Raises:
        ValueError: ``share`` is outside 0 … 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of kept weights must be in 0 … 1, got {share}: choose one")
    other = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32).state_dict()
    for name, tensor in unet.state_dict().items():
        tensor.lerp_(other[name].to(tensor.device), share)


def export(unet: UNet2DConditionModel, clip: str, autoencoder: str, folder: Path) -> None:
    """Write the whole pipeline folder: float16 tensors, float32 named in the text encoder."""
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(autoencoder),
        text_encoder=text_encoder(clip),
        tokenizer=CLIPTokenizer.from_pretrained(clip),
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    write_folder(pipe, folder, {"num_inference_steps": _STEPS, "guidance_scale": _GUIDANCE})


def write_folder(pipe: Any, folder: Path, made_for: dict[str, float]) -> None:
    """Write a pipeline's folder: float16 tensors, float32 named in the text encoders.

    Args:
        pipe: its parts become float16.
        folder: new, empty, or of an earlier export, which is replaced as a whole.
        made_for: the call's keywords, for ``ldmkit.json``.

    Raises:
        ValueError: something else is there.
    """
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.half()
    settings = {"critters_version": VERSION, "variants": {"": made_for}}
    with exported(folder) as partial:
        pipe.save_pretrained(partial, safe_serialization=True)
        for path in partial.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors writes them for the owner alone
        for name in ("text_encoder", "prior_text_encoder"):
            if (partial / name).is_dir():
                full_precision_config(partial / name / "config.json")
        for name in ("vae", "unet", "prior", "image_normalizer"):
            if (partial / name).is_dir():
                forget_origin(partial / name / "config.json")
        (partial / "ldmkit.json").write_text(json.dumps(settings, indent=2) + "\n")


def forget_origin(path: Path) -> None:
    """Drop the folder that a part was loaded from: it names a path of the training machine."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Command line."""
    parser = arguments(__doc__, minutes=60, batch=BATCH, shipped=UNET)
    parser.add_argument(
        "--autoencoder", default="runs/autoencoder/model", help="folder of the autoencoder"
    )
    parser.add_argument("--clip", default="runs/clip/model", help="folder of the embedded CLIP")
    empty_captions(parser)
    parser.add_argument(
        "--omit",
        type=float,
        default=0.0,
        help="how probably what a critter wears, or its mood, is left out of a caption",
    )
    parser.add_argument(
        "--mistaken",
        type=float,
        default=0.0,
        help="share of captions that have nothing to do with their drawing",
    )
    parser.add_argument(
        "--keep", type=float, default=0.0, help="share of earlier weights in the result, 0 … 1"
    )
    parser.add_argument("--kept", default=None, help="their folder, if not that of --from")
    options = parser.parse_args()
    if options.keep and not (options.kept or options.start):
        parser.error("--keep needs --from or --kept: the folder of the weights to keep")
    target = target_of(options, "unet")
    unet, _ = train(options)
    export(unet, options.clip, options.autoencoder, target)


if __name__ == "__main__":
    main()
