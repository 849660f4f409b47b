"""Train the autoencoder: 64×64×3 pictures to 16×16×4 latents (Rombach et al. 2022, KL f4).

    python -m ldmkit.recipes.autoencoder --minutes 60

Crops of 32 pixels for most of the time (four times the steps), whole pictures to finish. The
latents are means with a little fixed noise: a learned variance collapsed to grey in every trial.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from ldmkit.distilling.muon import Muon
from ldmkit.recipes.data import drawings, to_tensor, unseen
from ldmkit.recipes.train import VAE, Run, arguments, exported, half, target_of, train_model

BATCH = 16  # crops
LATENT_NOISE = 0.08
CROPS_UNTIL = 0.7  # share of the run that sees 32-pixel crops
_CELL = 4  # pixels per latent: crops start on this grid, as the styles' textures do


def build() -> AutoencoderKL:
    """The embedded autoencoder with fresh weights and its latent variance fixed."""
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(24, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )
    fix_variance(model)
    return model


def fix_variance(model: AutoencoderKL) -> None:
    """Make the encoder's standard deviation the constant `LATENT_NOISE`."""
    with torch.no_grad():
        model.quant_conv.weight[4:] = 0
        model.quant_conv.bias[4:] = 2 * float(np.log(LATENT_NOISE))


def batch(
    pictures: NDArray[np.uint8], rng: np.random.Generator, crop: bool, size: int = BATCH
) -> torch.Tensor:
    """Random crops of 32 pixels, or half as many whole pictures: (b, 3, h, w) in -1…1."""
    picked = pictures[np.sort(rng.integers(0, len(pictures), size if crop else size // 2))]
    if crop:
        at = rng.integers(0, 32 // _CELL + 1, (len(picked), 2)) * _CELL
        picked = np.stack([p[y : y + 32, x : x + 32] for p, (y, x) in zip(picked, at, strict=True)])
    return to_tensor(picked)


def loss_of(model: AutoencoderKL, x: torch.Tensor, device: str) -> torch.Tensor:
    """L1 + MSE of the reconstruction, with a faint pull of the latents towards zero."""
    with half(device):
        z = model.quant_conv(model.encoder(x))[:, :4]  # (b, 4, h/4, w/4), the means
        y = model.decode(z + LATENT_NOISE * torch.randn_like(z)).sample
    error = y.float() - x
    return error.abs().mean() + 2 * error.square().mean() + 1e-4 * z.float().square().mean()


@torch.no_grad()
def psnr(model: AutoencoderKL, pictures: NDArray[np.uint8], device: str = "cpu") -> float:
    """Mean PSNR in dB over pictures, decoded from the latents' means and rounded to 8 bits."""
    values = []
    for i in range(0, len(pictures), 20):
        x = to_tensor(pictures[i : i + 20]).to(device)
        y = model.decode(model.encode(x).latent_dist.mean).sample.float().clamp(-1, 1)
        error = ((y + 1) * 127.5).round() - ((x + 1) * 127.5).round()  # 0…255
        values.append(decibels(error))
    return float(torch.cat(values).mean())


def decibels(error: torch.Tensor) -> torch.Tensor:
    """PSNR (b,) in dB of pictures' differences (b, c, h, w) in 8-bit levels; 78 if none."""
    mse = error.square().mean(dim=(1, 2, 3)).clamp_min(1e-3)
    return 10 * torch.log10(255**2 / mse)


@torch.no_grad()
def latent_scale(model: AutoencoderKL, pictures: NDArray[np.uint8]) -> float:
    """The scaling factor that gives latents a standard deviation of one."""
    z = [
        model.encode(to_tensor(pictures[i : i + 50]).to(model.device)).latent_dist.mean
        for i in range(0, len(pictures), 50)
    ]
    return float(1 / torch.cat(z).std())


def train(options: argparse.Namespace) -> AutoencoderKL:
    """Run the recipe; returns the model with its averaged weights and scaling factor."""
    torch.manual_seed(options.seed)
    pictures = drawings(options.drawings, 0, options.runs / "cache")
    new = unseen(options.runs / "cache")
    model = build() if options.start is None else AutoencoderKL.from_pretrained(options.start)
    if options.decoder_only:  # the encoder is frozen once its latents are in use
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)

    def loss(run: Run, rng: np.random.Generator) -> torch.Tensor:
        x = batch(pictures, rng, run.progress < CROPS_UNTIL, options.batch)
        return loss_of(model, x.to(options.device), options.device)

    train_model(
        model,
        "autoencoder",
        options,
        loss,
        lambda: {"psnr": psnr(model, new[:100], options.device)},
        Muon(model.named_parameters()),
        after=lambda: fix_variance(model),
    )
    if not options.decoder_only:
        model.register_to_config(scaling_factor=latent_scale(model, pictures[:2000]))
    print(f"PSNR on {len(new)} unseen drawings: {psnr(model, new, options.device):.2f} dB")
    return model


def main() -> None:
    """Command line."""
    parser = arguments(__doc__, minutes=60, batch=BATCH, shipped=VAE)
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder as it is")
    options = parser.parse_args()
    target = target_of(options, "autoencoder")
    model = train(options)
    with exported(target) as folder:
        model.half().save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    main()
