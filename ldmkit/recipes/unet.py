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
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from ldmkit.critters.world import EVALUATION_SEED, VERSION
from ldmkit.distilling.muon import Muon
from ldmkit.recipes.captioning import Captioned, captions_of, empty_captions
from ldmkit.recipes.clip import full_precision_config, tokens
from ldmkit.recipes.common import Run, arguments, drawings, half, to_tensor

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
            np.save(path, self.latents(drawings(count, 0, cache)).numpy())
        return torch.from_numpy(np.load(path))


def text_encoder(clip: str) -> CLIPTextModel:
    """The text half of a CLIP folder, as the pipelines hold it."""
    whole = CLIPModel.from_pretrained(clip, dtype=torch.float32)
    text = CLIPTextModel(whole.config.text_config)
    wanted = text.state_dict()
    given = {k: v for k, v in whole.state_dict().items() if k in wanted}
    given |= {
        k.removeprefix("text_model."): v
        for k, v in whole.state_dict().items()
        if k.removeprefix("text_model.") in wanted
    }
    text.load_state_dict(given, strict=True)
    return text.eval()


def noisy(
    x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t = alpha x0 + sigma noise, and the target v = alpha noise − sigma x0."""
    alpha = alphas[t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
    return alpha * x0 + sigma * noise, alpha * noise - sigma * x0


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
    held = conditions.latents(
        np.array(drawings(options.unseen, EVALUATION_SEED, cache)[:128])
    ).float()
    held_text = conditions.embed(captions_of(np.arange(EVALUATION_SEED, EVALUATION_SEED + 128), 0))
    unet = (
        build()
        if options.start is None
        else UNet2DConditionModel.from_pretrained(options.start, dtype=torch.float32)
    )
    unet.to(device).train()
    captioned = Captioned(
        len(latents), options.empty, options.silence, options.omit, options.mistaken
    )
    alphas = build_scheduler().alphas_cumprod
    posterior = 0.08 * float(conditions.vae.config.scaling_factor)  # the encoder's fixed deviation
    run = Run(
        options.name or "unet",
        unet,
        Muon(unet.named_parameters(), vector_lr=0.1),
        options.minutes,
        options.rate,
        options.runs,
    )

    def evaluate() -> dict[str, float]:
        fixed = torch.Generator().manual_seed(0)
        noise = torch.randn(held.shape, generator=fixed)
        t = torch.linspace(0, 1023, len(held)).long()
        x, v = noisy(held, t, noise, alphas)
        with run.averaged(), torch.no_grad(), half(device):
            y = unet(x.to(device), t.to(device), held_text).sample.float().cpu()
        return {"v_mse": float((y - v).square().mean())}

    with sdpa_kernel(SDPBackend.MATH if device == "cpu" else list(SDPBackend.__members__.values())):
        for step in run.steps(evaluate):
            rng = np.random.default_rng((options.seed, step))
            picked, captions = captioned.batch(options.batch, step, rng)
            x0 = latents[picked].float()
            x0 = x0 + posterior * torch.randn_like(x0)
            t = stratified(options.batch, rng, len(alphas))
            x, v = noisy(x0, t, torch.randn_like(x0), alphas)
            with half(device):
                y = unet(x.to(device), t.to(device), conditions.embed(captions)).sample
            loss = (y.float() - v.to(device)).square().mean()
            run.update(loss)
    unet.load_state_dict(run.average)
    if options.keep:
        blend(unet, options.kept or options.start, options.keep)
    return unet.eval(), conditions


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
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    for part in (pipe.vae, pipe.text_encoder, pipe.unet):
        part.half()
    pipe.save_pretrained(partial, safe_serialization=True)
    for path in partial.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes them for the owner alone
    full_precision_config(partial / "text_encoder" / "config.json")
    for name in ("vae", "unet"):
        forget_origin(partial / name / "config.json")
    settings = {
        "critters_version": VERSION,
        "variants": {"": {"num_inference_steps": _STEPS, "guidance_scale": _GUIDANCE}},
    }
    (partial / "ldmkit.json").write_text(json.dumps(settings, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def forget_origin(path: Path) -> None:
    """Drop the folder that a part was loaded from: it names a path of the training machine."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Command line."""
    parser = arguments(__doc__, minutes=60, batch=BATCH)
    parser.add_argument(
        "--autoencoder", default="runs/autoencoder/model", help="folder of the autoencoder"
    )
    parser.add_argument("--clip", default="runs/clip/model", help="folder of the embedded CLIP")
    empty_captions(parser)
    parser.add_argument(
        "--keep", type=float, default=0.0, help="share of earlier weights in the result, 0 … 1"
    )
    parser.add_argument("--kept", default=None, help="their folder, if not that of --from")
    options = parser.parse_args()
    if options.keep and not (options.kept or options.start):
        parser.error("--keep needs --from or --kept: the folder of the weights to keep")
    unet, _ = train(options)
    target = options.export or options.runs / (options.name or "unet") / "model"
    export(unet, options.clip, options.autoencoder, target)


if __name__ == "__main__":
    main()
